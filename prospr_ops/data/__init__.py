"""Data sets as NumPy arrays, and batches out of whatever people train Keras models on."""

from prospr_ops.data.datasets import Dataset, mnist

__all__ = ["Dataset", "mnist"]
