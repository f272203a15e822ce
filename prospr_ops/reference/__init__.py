"""Reference implementations: plain TensorFlow and NumPy, slow and written to be read.

Each is the twin of a compiled or optimised path. Tests compare the two, and benchmarks measure
against the twin. Nothing in this package uses the compiled library.
"""

from __future__ import annotations

from prospr_ops.reference.block_normalisation import (
    block_moments,
    block_norm,
    block_norm_gradient,
)
from prospr_ops.reference.curvature import (
    conv_curvature,
    dense_curvature,
    embedding_curvature,
    pooled_conv_curvature,
    pooled_conv_input_gradient,
)
from prospr_ops.reference.exact_hessian import hessian, hessian_diagonal
from prospr_ops.reference.gamma import gamma_momentum_step, gamma_step, gamma_update
from prospr_ops.reference.meta_gradient import unrolled_meta_gradient
from prospr_ops.reference.normalisation import (
    batch_moments,
    batch_norm,
    batch_norm_gradient,
    batch_norm_second_gradient,
)
from prospr_ops.reference.patterns import best_n_of_m, block_sums
from prospr_ops.reference.pooling import gather_pooled, max_pool, max_unpool
from prospr_ops.reference.rounds import pruned_in_rounds
from prospr_ops.reference.scores import (
    diagonal_scores,
    first_order_scores,
    grasp_scores,
    synflow_scores,
)
from prospr_ops.reference.selection import (
    erk_shares,
    select,
    select_by_share,
    select_within,
)
from prospr_ops.reference.sparse_convolution import (
    dense_filters,
    from_blocks,
    sparse_conv,
    sparse_conv_filter_gradient,
    sparse_conv_input_gradient,
    sparse_conv_small,
    to_blocks,
)

__all__ = [
    "batch_moments",
    "batch_norm",
    "batch_norm_gradient",
    "batch_norm_second_gradient",
    "best_n_of_m",
    "block_moments",
    "block_norm",
    "block_norm_gradient",
    "block_sums",
    "conv_curvature",
    "dense_curvature",
    "dense_filters",
    "diagonal_scores",
    "embedding_curvature",
    "erk_shares",
    "first_order_scores",
    "from_blocks",
    "gamma_momentum_step",
    "gamma_step",
    "gamma_update",
    "gather_pooled",
    "grasp_scores",
    "hessian",
    "hessian_diagonal",
    "max_pool",
    "max_unpool",
    "pooled_conv_curvature",
    "pooled_conv_input_gradient",
    "pruned_in_rounds",
    "select",
    "select_by_share",
    "select_within",
    "sparse_conv",
    "sparse_conv_filter_gradient",
    "sparse_conv_input_gradient",
    "sparse_conv_small",
    "synflow_scores",
    "to_blocks",
    "unrolled_meta_gradient",
]
