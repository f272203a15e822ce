"""Data sets as NumPy arrays, and batches from any data that Keras models are trained on."""

from prospr_ops.data.datasets import Dataset, mnist

__all__ = ["Dataset", "mnist"]
