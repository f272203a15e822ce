"""Keras callbacks for training pruned models."""

from prospr_ops.callbacks.sparsity_logger import SparsityLogger

__all__ = ["SparsityLogger"]
