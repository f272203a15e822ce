"""Data sets as NumPy arrays, and batches from any data that Keras models are trained on."""

from prospr_ops.data.datasets import Dataset, fashion_mnist, mnist

__all__ = ["Dataset", "fashion_mnist", "mnist"]
