"""Slow twins of the compiled kernels, in plain TensorFlow."""
