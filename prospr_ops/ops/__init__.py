"""The compiled ops.

Each function here is one op of the compiled library; its slow twin of the same name is in
`prospr_ops.reference`. They run on TensorFlow's own thread pool, or on a GPU in TensorFlow's stream,
eagerly or inside a `tf.function` (not under `jit_compile=True`), and give the same bits for every
number of threads and in every run.
"""

from __future__ import annotations

from prospr_ops.ops.block_normalisation import block_moments, block_norm, block_norm_gradient
from prospr_ops.ops.curvature import (
    conv_curvature,
    dense_curvature,
    embedding_curvature,
    pooled_conv_curvature,
    pooled_conv_input_gradient,
)
from prospr_ops.ops.gamma import gamma_momentum_step, gamma_step, gamma_update
from prospr_ops.ops.normalisation import (
    batch_moments,
    batch_norm,
    batch_norm_gradient,
    batch_norm_second_gradient,
)
from prospr_ops.ops.pooling import gather_pooled, max_pool, max_unpool
from prospr_ops.ops.selection import select
from prospr_ops.ops.sparse_convolution import (
    from_blocks,
    sparse_conv,
    sparse_conv_filter_gradient,
    sparse_conv_input_gradient,
    sparse_conv_small,
    to_blocks,
    transposed_pattern,
)

__all__ = [
    "batch_moments",
    "batch_norm",
    "batch_norm_gradient",
    "batch_norm_second_gradient",
    "block_moments",
    "block_norm",
    "block_norm_gradient",
    "conv_curvature",
    "dense_curvature",
    "embedding_curvature",
    "from_blocks",
    "gamma_momentum_step",
    "gamma_step",
    "gamma_update",
    "gather_pooled",
    "max_pool",
    "max_unpool",
    "pooled_conv_curvature",
    "pooled_conv_input_gradient",
    "select",
    "sparse_conv",
    "sparse_conv_filter_gradient",
    "sparse_conv_input_gradient",
    "sparse_conv_small",
    "to_blocks",
    "transposed_pattern",
]
