"""Memory held and free."""

from __future__ import annotations

import gc
import mmap

import pytest
import tensorflow as tf

from prospr_ops.utils import memory

pytestmark = pytest.mark.skipif(
    bool(tf.config.list_physical_devices("GPU")), reason="it is the GPU's memory that counts"
)


def test_what_is_allocated_is_held():
    before = memory.used_bytes()
    block = mmap.mmap(-1, 2**28)  # new pages, whatever the process has given back before
    block.write(b"\1" * len(block))
    assert memory.used_bytes() - before > 0.9 * len(block)


def test_the_limit_of_a_control_group_counts(tmp_path, monkeypatch):
    limit, used = tmp_path / "max", tmp_path / "current"
    monkeypatch.setattr(memory, "_LIMITS", ((limit, used),))
    unlimited = memory.free_bytes()  # there are no such files
    assert unlimited > 10_000
    used.write_text("4000\n")
    for text, expected in (("10000\n", 6000), ("3000\n", 0)):
        limit.write_text(text)
        assert memory.free_bytes() == expected
    limit.write_text("max\n")
    assert memory.free_bytes() > 10_000


def test_old_objects_are_left_alone_once(monkeypatch):
    """Else each would keep from collection what the one before has left."""
    monkeypatch.setattr(memory, "_spared", False)
    for frozen in (True, False):
        with memory.old_objects_left_alone():
            assert bool(gc.get_freeze_count()) == frozen
        assert gc.get_freeze_count() == 0


def test_what_others_have_frozen_stays_frozen(monkeypatch):
    monkeypatch.setattr(memory, "_spared", False)
    gc.freeze()
    try:
        with memory.old_objects_left_alone():
            pass
        assert gc.get_freeze_count()
    finally:
        gc.unfreeze()
