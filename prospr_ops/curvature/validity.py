"""What the closed form is worth for a layer: the Hessian, the Gauss-Newton matrix, or nothing.

Decided on the traced graph between a layer's output and the model's, so it holds for any model,
subclassed ones included. An operation that is not listed here counts as one that could mix samples:
the closed form is never used on a guess.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum
from typing import NamedTuple

import numpy as np
import tensorflow as tf


class Validity(IntEnum):
    """Of the closed-form diagonal; the larger, the less it holds."""

    EXACT = 0
    GAUSS_NEWTON = 1
    NOT_APPLICABLE = 2


class Verdict(NamedTuple):
    """A validity, and the operation that decided it."""

    validity: Validity
    reason: str


_EXACT = Verdict(Validity.EXACT, "piecewise linear")

# Piecewise linear, each sample by itself, whatever operands depend on the layer.
_PIECEWISE_LINEAR = """
Abs Add AddN AddV2 AvgPool AvgPool3D BiasAdd Cast ClipByValue DepthToSpace Identity IdentityN
LeakyRelu MaxPool MaxPool3D MaxPoolV2 Maximum Minimum MirrorPad Neg OnesLike Pad PadV2
PreventGradient Relu Relu6 ResizeBicubic ResizeBilinear ResizeNearestNeighbor Select SelectV2 Sign
SpaceToDepth StopGradient Sub ZerosLike
BroadcastTo ExpandDims Reshape Slice Split SplitV Squeeze StridedSlice Tile
"""
# Linear in each operand: exact while only one of them depends on the layer.
_MULTILINEAR = """
BatchMatMul BatchMatMulV2 BatchMatMulV3 Conv2D Conv2DBackpropInput Conv3D Conv3DBackpropInputV2
DepthwiseConv2dNative Mul
"""
# Each sample by itself, but curved.
_CURVED = """
Elu Erf Erfc Exp Expm1 Log Log1p LogSoftmax Pow Reciprocal Rsqrt Selu Sigmoid Softmax Softplus
Softsign Sqrt Square SquaredDifference Tanh Xdivy Xlogy
"""
# Over axes that the second operand names.
_REDUCTIONS = "Max Mean Min Sum Cumsum"


def _keeps_samples(tensor: tf.Tensor, output: tf.Tensor) -> bool:
    """Whether both have the same number of samples on the first axis."""
    if not tensor.shape.rank or not output.shape.rank:
        return False
    return tensor.shape[0] is not None and tensor.shape[0] == output.shape[0]


def _verdict(operation: tf.Operation, dependent: list[int]) -> Verdict:
    """What one operation does to the operands that depend on a layer."""
    kind = operation.type
    if kind in ("SpaceToBatchND", "BatchToSpaceND"):
        return _EXACT  # around a dilated convolution, with samples times phases on the first axis
    kept = all(
        _keeps_samples(operation.inputs[i], output)
        for i in dependent
        for output in operation.outputs
    )
    if kind.startswith("FusedBatchNorm") and operation.get_attr("is_training"):
        return Verdict(
            Validity.NOT_APPLICABLE, "batch normalisation in training mode mixes samples"
        )
    if not kept or not _samples_apart(operation, dependent):
        return Verdict(Validity.NOT_APPLICABLE, f"{kind} may mix samples")
    if kind in _CURVED.split() or (len(dependent) > 1 and kind not in _PIECEWISE_LINEAR.split()):
        return Verdict(Validity.GAUSS_NEWTON, f"{kind} is not piecewise linear")
    if kind == "RealDiv" and dependent != [0]:
        return Verdict(Validity.GAUSS_NEWTON, "RealDiv is not piecewise linear")
    return _EXACT


def _samples_apart(operation: tf.Operation, dependent: list[int]) -> bool:
    """Whether an operation that keeps the size of the first axis leaves its samples apart."""
    kind = operation.type
    rank = operation.inputs[dependent[0]].shape.rank
    if kind in f"{_PIECEWISE_LINEAR} {_MULTILINEAR} {_CURVED} RealDiv".split():
        return kind != "BatchMatMulV2" or rank > 2
    if kind == "MatMul":
        return dependent == [0] and not operation.get_attr("transpose_a")
    if kind.startswith("FusedBatchNorm"):
        return dependent == [0]
    if kind == "Einsum":
        terms, output = operation.get_attr("equation").decode().split("->")
        first = {terms.split(",")[i][:1] for i in dependent}
        return first == {output[:1]} and output[:1].isalpha()
    if kind == "Pack":
        return operation.get_attr("axis") != 0
    if kind == "Transpose":
        order = tf.get_static_value(operation.inputs[1])
        return order is not None and int(order[0]) == 0
    if kind in _REDUCTIONS.split():
        axes = tf.get_static_value(operation.inputs[1])
    elif kind in ("ConcatV2", "GatherV2"):
        axes = tf.get_static_value(operation.inputs[-1])
    else:
        return False  # an operation that is not known here
    return axes is not None and not np.any(np.ravel(axes) % rank == 0)


def judge(sources: Sequence[tf.Tensor], output: tf.Tensor) -> list[Verdict]:
    """Judges each source's way to the output.

    Args:
        sources: Outputs of layers, before their activation, samples on the first axis.
        output: The model's output, in the same graph.

    Returns:
        For each source the worst verdict on any path to the output. A source that does not reach it
        counts as exact: its curvature is zero.
    """
    operations = output.graph.get_operations()
    dependent = {source.name for source in sources}
    uses: dict[str, list[int]] = {}
    for operation in operations:
        operands = [i for i, tensor in enumerate(operation.inputs) if tensor.name in dependent]
        if operands:
            uses[operation.name] = operands
            dependent.update(tensor.name for tensor in operation.outputs)

    verdicts = {output.name: _EXACT}
    for operation in reversed(operations):
        operands = uses.get(operation.name, [])
        after = [verdicts[t.name] for t in operation.outputs if t.name in verdicts]
        if not operands or not after:
            continue
        here = max(_verdict(operation, operands), *after)
        for i in operands:
            name = operation.inputs[i].name
            verdicts[name] = max(verdicts.get(name, _EXACT), here)
    return [verdicts.get(source.name, _EXACT) for source in sources]
