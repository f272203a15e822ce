"""How much memory this process holds, and how much more there is."""

from __future__ import annotations

import gc
import os
import resource
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import tensorflow as tf
from tensorflow.python.client import device_lib

# Of a process in a control group, of version 2 and 1: its limit, and what counts against it.
_LIMITS = (
    ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
    (
        "/sys/fs/cgroup/memory/memory.limit_in_bytes",
        "/sys/fs/cgroup/memory/memory.usage_in_bytes",
    ),
)


def used_bytes() -> int:
    """What this process holds now, of the first GPU's memory where there is one.

    Outside Linux, which says it, the most that it has held so far.
    """
    if tf.config.list_logical_devices("GPU"):
        return tf.config.experimental.get_memory_info("GPU:0")["current"]
    try:
        pages = Path("/proc/self/statm").read_text().split()[1]
    except OSError:
        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return most if sys.platform == "darwin" else most * 1024
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


def free_bytes() -> int:
    """What this process can still get: of the first GPU, or of the machine and its control group.

    Outside Linux, which says it, half of the machine's memory.
    """
    if tf.config.list_logical_devices("GPU"):
        limits = [d.memory_limit for d in device_lib.list_local_devices() if d.device_type == "GPU"]
        return max(0, limits[0] - used_bytes())
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    kilobytes = next(line.split()[1] for line in lines if line.startswith("MemAvailable:"))
    free = [int(kilobytes) * 1024]
    for limit, used in _LIMITS:
        try:
            free.append(int(Path(limit).read_text()) - int(Path(used).read_text()))
        except (OSError, ValueError):  # there is no such group, or it is not limited ("max")
            continue
    return max(0, min(free))


@contextmanager
def no_collection() -> Iterator[None]:
    """Garbage collection does not begin by itself meanwhile.

    One that begins while `gc.get_referrers` walks through all objects moves them out of its way, and the
    process crashes.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


_spared = False


@contextmanager
def old_objects_left_alone() -> Iterator[None]:
    """Garbage collection looks at no object meanwhile that is there already, the first time this is used.

    What importing TensorFlow and Keras makes is so much that to look at all of it takes 0.2 s, which a
    first call would do twice. Later calls would only keep from collection what the calls before have
    left.
    """
    global _spared  # noqa: PLW0603 - of the process, as the collector is
    if _spared or gc.get_freeze_count():  # others have frozen some, which are not ours to thaw
        yield
        return
    _spared = True
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
