"""Whether a layer's closed form is the Hessian's diagonal, Gauss-Newton's, or not applicable.

This is decided on the traced graph between the layer's output and the model's, so it works for any
model, including subclassed ones. An operation that is not listed here counts as one that may mix
samples, so the closed form is never used on a guess.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum
from typing import NamedTuple

import numpy as np
import tensorflow as tf


class Validity(IntEnum):
    """How the closed-form diagonal relates to the Hessian; larger is worse."""

    EXACT = 0
    GAUSS_NEWTON = 1
    NOT_APPLICABLE = 2


class Verdict(NamedTuple):
    """A validity, and the operation that decided it."""

    validity: Validity
    reason: str


_EXACT = Verdict(Validity.EXACT, "piecewise linear")

# Elementwise and piecewise linear, whichever operands depend on the layer.
_ELEMENTWISE = """
Abs Add AddN AddV2 BroadcastTo Cast ClipByValue Equal Greater GreaterEqual Identity LeakyRelu Less
LessEqual LogicalAnd LogicalNot LogicalOr Maximum Minimum Neg NotEqual OnesLike PreventGradient Relu
Relu6 Select SelectV2 Sign StopGradient Sub ZerosLike
"""
# Rearranges elements within a sample.
_RESHAPING = "ExpandDims Reshape Slice Split SplitV Squeeze StridedSlice Tile"
# Piecewise linear in the first operand (or the third) without mixing samples; the other operands
# must not depend on the layer.
_FIRST = """
AvgPool AvgPool3D BatchToSpaceND BiasAdd Conv2D Conv3D DepthToSpace DepthwiseConv2dNative
FusedBatchNorm FusedBatchNormV2 FusedBatchNormV3 MatMul MaxPool MaxPool3D MaxPoolV2 MirrorPad Pad
PadV2 ResizeBicubic ResizeBilinear ResizeNearestNeighbor SpaceToBatchND SpaceToDepth
"""
_THIRD = "Conv2DBackpropInput Conv3DBackpropInputV2"
_ONLY_OPERAND = dict.fromkeys(_FIRST.split(), 0) | dict.fromkeys(_THIRD.split(), 2)
# Linear in each operand: exact if only one of them depends on the layer.
_MULTILINEAR = "BatchMatMul BatchMatMulV2 BatchMatMulV3 Mul"
# Elementwise and curved.
_CURVED = """
Atan Cos Elu Erf Erfc Exp Expm1 Log Log1p Pow RealDiv Reciprocal Rsqrt Selu Sigmoid Sin Softplus
Softsign Sqrt Square SquaredDifference Tanh Xdivy Xlogy
"""
# Curved along the last axis.
_SOFTMAX = "LogSoftmax Softmax"
# Reductions over the axes in the second operand.
_REDUCTIONS = "Cumsum Max Mean Min ReverseV2 Sum"
# Piecewise linear in all operands jointly.
_JOINTLY_LINEAR = f"{_ELEMENTWISE} {_RESHAPING} ConcatV2 IdentityN Pack Unpack"


def _rows(tensor: tf.Tensor) -> int | None:
    """Size of the first axis; None if unknown."""
    return tensor.shape[0] if tensor.shape.rank else None


class _Operation(NamedTuple):
    """An operation that takes a layer's output.

    Samples lie along the first axis of its operands, one after the other, each in one row or
    several. If `phased` (around a dilated convolution), they lie in blocks that each hold all
    samples.
    """

    op: tf.Operation
    dependent: list[int]
    samples: int
    phased: bool

    @property
    def operands(self) -> list[tf.Tensor]:
        return [self.op.inputs[i] for i in self.dependent]

    def outputs_of(self, operand: int) -> list[tf.Tensor]:
        """The outputs that depend on an operand."""
        outputs = self.op.outputs
        return [outputs[operand]] if self.op.type == "IdentityN" else list(outputs)

    def verdict(self) -> Verdict:
        """How the operation acts on the operands that depend on a layer."""
        kind = self.op.type
        if kind.startswith("FusedBatchNorm") and self.op.get_attr("is_training"):
            return Verdict(
                Validity.NOT_APPLICABLE, "batch normalisation in training mode mixes samples"
            )
        if not self._keeps_samples() or not self._samples_apart():
            layer = self.op.name.rpartition("/")[0]
            where = f" in {layer}" if layer else ""
            return Verdict(Validity.NOT_APPLICABLE, f"{kind}{where} may mix samples")
        if kind == "IdentityN" and b"_gradient_op_type" in str(self.op.node_def).encode():
            return Verdict(Validity.GAUSS_NEWTON, "its gradient is custom")
        linear = kind == "RealDiv" and self.dependent == [0]
        curved = kind in f"{_CURVED} {_SOFTMAX}".split() and not linear
        if curved or (len(self.dependent) > 1 and kind not in _JOINTLY_LINEAR.split()):
            return Verdict(Validity.GAUSS_NEWTON, f"{kind} is not piecewise linear")
        return _EXACT

    def _keeps_samples(self) -> bool:
        """Whether the rows of operands and outputs belong to the same samples."""
        for i in self.dependent:
            before = _rows(self.op.inputs[i])
            after = [_rows(output) or 0 for output in self.outputs_of(i)]
            if not before or before % self.samples or 0 in after:
                return False
            # Consecutive rows of one sample can be split and merged within that sample.
            recut = self.op.type == "Reshape" and not self.phased
            if self.op.type in ("SpaceToBatchND", "BatchToSpaceND") or recut:
                if any(rows % self.samples for rows in after):
                    return False
            elif any(rows != before for rows in after):
                return False
        return True

    def _samples_apart(self) -> bool:
        """Whether an operation that keeps the number of rows does not mix samples."""
        op, kind, dependent = self.op, self.op.type, self.dependent
        rank = self.operands[0].shape.rank
        if kind in f"{_ELEMENTWISE} {_CURVED} {_MULTILINEAR}".split():
            # An operand of lower rank is broadcast, so its first axis is not the output's.
            same = all(tensor.shape.rank == op.outputs[0].shape.rank for tensor in self.operands)
            return same and (not kind.startswith("BatchMatMul") or rank > 2)
        if kind == "StridedSlice":
            return dependent == [0] and _whole_first_axis(op)
        if kind in f"{_RESHAPING} IdentityN".split():
            return True
        if kind in _SOFTMAX.split():
            return rank > 1
        if kind in _ONLY_OPERAND:
            transposed = kind == "MatMul" and op.get_attr("transpose_a")
            outside = kind == "BatchToSpaceND" and not self.phased
            return dependent == [_ONLY_OPERAND[kind]] and not transposed and not outside
        if kind == "Einsum":
            terms, output = op.get_attr("equation").decode().split("->")
            first = {terms.split(",")[i][:1] for i in dependent}
            return first == {output[:1]} and output[:1].isalpha()
        if kind in ("Pack", "Unpack"):
            return op.get_attr("axis") % (rank + (kind == "Pack")) != 0
        if kind == "Transpose":
            order = tf.get_static_value(op.inputs[1])
            return order is not None and int(order[0]) == 0
        if kind in _REDUCTIONS.split():
            axes = tf.get_static_value(op.inputs[1])
        elif kind == "GatherV2" and dependent == [1]:  # rows of a table
            return tf.get_static_value(op.inputs[2]) == 0 and op.get_attr("batch_dims") == 0
        elif kind in ("ConcatV2", "GatherV2"):
            axes = tf.get_static_value(op.inputs[-1])
        else:
            return False  # unknown operation
        return axes is not None and not np.any(np.ravel(axes) % rank == 0)


def _whole_first_axis(op: tf.Operation) -> bool:
    """Whether a slice that keeps the number of rows takes all of them, in order."""
    if (op.get_attr("new_axis_mask") | op.get_attr("shrink_axis_mask")) & 1:
        return False
    if op.get_attr("ellipsis_mask") & 1:
        new_axes = int(op.get_attr("new_axis_mask")).bit_count()
        return op.inputs[1].shape[0] - 1 - new_axes < op.inputs[0].shape.rank
    strides = tf.get_static_value(op.inputs[3])
    return strides is not None and int(strides[0]) == 1


def judge(sources: Sequence[tf.Tensor], output: tf.Tensor) -> list[Verdict]:
    """Judges the path from each source to the output.

    Args:
        sources: Outputs of layers before their activation, with samples on the first axis.
        output: Output of the model, in the same graph.

    Returns:
        For each source, the worst verdict on any path to the output. A source that does not reach
        the output counts as exact: its curvature is zero.
    """
    operations = output.graph.get_operations()
    phased = {source.name: False for source in sources}  # for every tensor that depends on a source
    uses: dict[str, _Operation] = {}
    for op in operations:
        operands = [i for i, tensor in enumerate(op.inputs) if tensor.name in phased]
        if not operands:
            continue
        layouts = {phased[op.inputs[i].name] for i in operands}
        use = _Operation(op, operands, output.shape[0], phased=True in layouts)
        uses[op.name] = use
        for i in operands:
            for tensor in use.outputs_of(i):
                restored = op.type == "BatchToSpaceND" and _rows(tensor) == use.samples
                phased[tensor.name] = not restored and (use.phased or op.type == "SpaceToBatchND")

    verdicts = {output.name: _EXACT}
    for op in reversed(operations):
        if op.name not in uses:
            continue
        use = uses[op.name]
        here = None
        for i in use.dependent:
            after = [verdicts[t.name] for t in use.outputs_of(i) if t.name in verdicts]
            if after:
                here = here or use.verdict()
                name = op.inputs[i].name
                verdicts[name] = max(verdicts.get(name, _EXACT), here, *after)
    return [verdicts.get(source.name, _EXACT) for source in sources]
