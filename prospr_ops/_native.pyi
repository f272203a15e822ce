from collections.abc import Sequence
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

_Float = TypeVar("_Float", np.float32, np.float64)

def build_info() -> dict[str, Any]: ...
def gamma_update(
    log_gamma: npt.NDArray[_Float],
    sign: npt.NDArray[np.int8],
    curvature: npt.NDArray[_Float],
    learning_rate: float,
    threads: int = 1,
    instruction_set: str = "",
) -> None: ...
def gamma_step(
    weight: npt.NDArray[_Float],
    log_gamma: npt.NDArray[_Float],
    sign: npt.NDArray[np.int8],
    gradient: npt.NDArray[_Float],
    curvature: npt.NDArray[_Float],
    learning_rate: float,
    threads: int = 1,
    instruction_set: str = "",
) -> bool: ...
def gamma_momentum_step(
    weight: npt.NDArray[_Float],
    velocity: npt.NDArray[_Float],
    log_scale: npt.NDArray[_Float],
    p: npt.NDArray[_Float],
    q: npt.NDArray[_Float],
    gradient: npt.NDArray[_Float],
    curvature: npt.NDArray[_Float],
    learning_rate: float,
    momentum: float,
    threads: int = 1,
    instruction_set: str = "",
) -> bool: ...
def dense_curvature(
    inputs: npt.NDArray[_Float],
    factors: npt.NDArray[_Float],
    accumulator: npt.NDArray[_Float],
    threads: int = 1,
    instruction_set: str = "",
) -> None: ...
def conv_curvature(
    inputs: npt.NDArray[_Float],
    factors: npt.NDArray[_Float],
    accumulator: npt.NDArray[_Float],
    strides: Sequence[int],
    dilations: Sequence[int],
    padding: str = "valid",
    groups: int = 1,
    threads: int = 1,
    instruction_set: str = "",
) -> None: ...
def pooled_conv_curvature(
    inputs: npt.NDArray[_Float],
    factors: npt.NDArray[_Float],
    derivative: npt.NDArray[_Float],
    accumulator: npt.NDArray[_Float],
    strides: Sequence[int],
    dilations: Sequence[int],
    padding: str = "valid",
    groups: int = 1,
    threads: int = 1,
    instruction_set: str = "",
) -> None: ...
def pooled_conv_input_gradient(
    kernel: npt.NDArray[_Float],
    factors: npt.NDArray[_Float],
    derivative: npt.NDArray[_Float],
    input_size: Sequence[int],
    strides: Sequence[int],
    dilations: Sequence[int],
    padding: str = "valid",
    groups: int = 1,
    threads: int = 1,
    instruction_set: str = "",
) -> npt.NDArray[_Float]: ...
def embedding_curvature(
    indices: npt.NDArray[np.int32] | npt.NDArray[np.int64],
    factors: npt.NDArray[_Float],
    accumulator: npt.NDArray[_Float],
    threads: int = 1,
    instruction_set: str = "",
) -> None: ...
def select(
    scores: list[npt.NDArray[_Float]],
    keep: int,
    min_keep: int = 0,
    packed: bool = False,
    threads: int = 1,
    instruction_set: str = "",
) -> list[npt.NDArray[Any]]: ...
def batch_moments(
    x: npt.NDArray[_Float],
    threads: int = 1,
    instruction_set: str = "",
) -> tuple[npt.NDArray[_Float], npt.NDArray[_Float], npt.NDArray[np.float64]]: ...
def batch_norm(
    x: npt.NDArray[_Float],
    scale: npt.NDArray[_Float],
    offset: npt.NDArray[_Float],
    moments: npt.NDArray[np.float64],
    epsilon: float,
    threads: int = 1,
    instruction_set: str = "",
) -> npt.NDArray[_Float]: ...
def batch_norm_gradient(
    y_gradient: npt.NDArray[_Float],
    x: npt.NDArray[_Float],
    scale: npt.NDArray[_Float],
    moments: npt.NDArray[np.float64],
    epsilon: float,
    threads: int = 1,
    instruction_set: str = "",
) -> tuple[npt.NDArray[_Float], npt.NDArray[_Float], npt.NDArray[_Float]]: ...
def batch_norm_second_gradient(
    u: npt.NDArray[_Float],
    u_scale: npt.NDArray[_Float],
    u_offset: npt.NDArray[_Float],
    y_gradient: npt.NDArray[_Float],
    x: npt.NDArray[_Float],
    scale: npt.NDArray[_Float],
    moments: npt.NDArray[np.float64],
    epsilon: float,
    threads: int = 1,
    instruction_set: str = "",
) -> tuple[npt.NDArray[_Float], npt.NDArray[_Float], npt.NDArray[_Float]]: ...
def block_moments(
    x: npt.NDArray[_Float],
    samples: int,
    threads: int = 1,
    instruction_set: str = "",
) -> tuple[npt.NDArray[_Float], npt.NDArray[_Float], npt.NDArray[np.float64]]: ...
def block_norm(
    x: npt.NDArray[_Float],
    residual: npt.NDArray[_Float] | None,
    scale: npt.NDArray[_Float],
    offset: npt.NDArray[_Float],
    moments: npt.NDArray[np.float64],
    epsilon: float,
    samples: int,
    relu: bool,
    ceiling: float,
    threads: int = 1,
    instruction_set: str = "",
) -> npt.NDArray[_Float]: ...
def block_norm_gradient(
    y_gradient: npt.NDArray[_Float],
    x: npt.NDArray[_Float],
    residual: npt.NDArray[_Float] | None,
    scale: npt.NDArray[_Float],
    offset: npt.NDArray[_Float],
    moments: npt.NDArray[np.float64],
    epsilon: float,
    samples: int,
    relu: bool,
    ceiling: float,
    threads: int = 1,
    instruction_set: str = "",
) -> tuple[
    npt.NDArray[_Float], npt.NDArray[_Float] | None, npt.NDArray[_Float], npt.NDArray[_Float]
]: ...
def max_pool(
    image: npt.NDArray[_Float],
    window: tuple[int, int],
    threads: int = 1,
    instruction_set: str = "",
) -> tuple[npt.NDArray[_Float], npt.NDArray[np.uint8]]: ...
def max_unpool(
    values: npt.NDArray[_Float],
    positions: npt.NDArray[np.uint8],
    window: tuple[int, int],
    size: tuple[int, int],
    threads: int = 1,
    instruction_set: str = "",
) -> npt.NDArray[_Float]: ...
def gather_pooled(
    image: npt.NDArray[_Float],
    positions: npt.NDArray[np.uint8],
    window: tuple[int, int],
    threads: int = 1,
    instruction_set: str = "",
) -> npt.NDArray[_Float]: ...
def sparse_conv(
    image: npt.NDArray[_Float],
    weights: npt.NDArray[_Float],
    bias: npt.NDArray[_Float],
    taps: npt.NDArray[np.int32],
    splits: npt.NDArray[np.int32],
    kernel_size: tuple[int, int],
    strides: tuple[int, int],
    dilations: tuple[int, int],
    same: bool,
    threads: int = 1,
    instruction_set: str = "",
) -> npt.NDArray[_Float]: ...
def sparse_conv_small(
    image: npt.NDArray[_Float],
    weights: npt.NDArray[_Float],
    scale: npt.NDArray[_Float],
    bias: npt.NDArray[_Float],
    taps: npt.NDArray[np.int32],
    splits: npt.NDArray[np.int32],
    kernel_size: tuple[int, int],
    strides: tuple[int, int],
    dilations: tuple[int, int],
    same: bool,
    threads: int = 1,
    instruction_set: str = "",
) -> npt.NDArray[_Float]: ...
def sparse_conv_input_gradient(
    output_gradient: npt.NDArray[_Float],
    weights: npt.NDArray[_Float],
    taps: npt.NDArray[np.int32],
    splits: npt.NDArray[np.int32],
    order: npt.NDArray[np.int32],
    image_size: tuple[int, int],
    kernel_size: tuple[int, int],
    strides: tuple[int, int],
    dilations: tuple[int, int],
    same: bool,
    threads: int = 1,
    instruction_set: str = "",
) -> npt.NDArray[_Float]: ...
def sparse_conv_filter_gradient(
    image: npt.NDArray[_Float],
    output_gradient: npt.NDArray[_Float],
    taps: npt.NDArray[np.int32],
    splits: npt.NDArray[np.int32],
    kernel_size: tuple[int, int],
    strides: tuple[int, int],
    dilations: tuple[int, int],
    same: bool,
    threads: int = 1,
    instruction_set: str = "",
) -> tuple[npt.NDArray[_Float], npt.NDArray[_Float]]: ...
def to_blocks(
    samples: npt.NDArray[_Float],
    threads: int = 1,
    instruction_set: str = "",
) -> npt.NDArray[_Float]: ...
def from_blocks(
    blocks: npt.NDArray[_Float],
    samples: int,
    threads: int = 1,
    instruction_set: str = "",
) -> npt.NDArray[_Float]: ...
def triad(
    result: npt.NDArray[np.float32],
    a: npt.NDArray[np.float32],
    b: npt.NDArray[np.float32],
    scale: float,
    threads: int = 1,
) -> None: ...
