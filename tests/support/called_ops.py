"""Which operations of TensorFlow are called."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from tensorflow.python.framework import op_callbacks

# Those of ours that have kernels for the CPU alone: where there is a GPU, nothing may call them.
CPU_ONLY = {
    "Prospr>BlockMoments",
    "Prospr>BlockNorm",
    "Prospr>BlockNormGradient",
    "Prospr>FromBlocks",
    "Prospr>SparseConv",
    "Prospr>SparseConvFilterGradient",
    "Prospr>SparseConvInputGradient",
    "Prospr>SparseConvSmall",
    "Prospr>ToBlocks",
}


@contextmanager
def called_ops() -> Iterator[set[str]]:
    """The types of the operations that are run or traced within this context."""
    called: set[str] = set()

    def note(op_type: str | bytes, *_: object, **__: object) -> None:
        called.add(op_type.decode() if isinstance(op_type, bytes) else op_type)

    op_callbacks.add_op_callback(note)
    try:
        yield called
    finally:
        op_callbacks.remove_op_callback(note)
