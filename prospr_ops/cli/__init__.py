"""The shell command `prospr`; imports no TensorFlow until a command runs."""

from prospr_ops.cli.parser import main

__all__ = ["main"]
