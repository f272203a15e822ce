"""Keras callbacks for training pruned models, and for pruning in training."""

from prospr_ops.callbacks.dynamic_sparsity import DynamicSparsity
from prospr_ops.callbacks.gradual_pruning import GradualPruning
from prospr_ops.callbacks.sparsity_logger import SparsityLogger

__all__ = ["DynamicSparsity", "GradualPruning", "SparsityLogger"]
