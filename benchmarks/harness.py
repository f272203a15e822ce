"""Timing, and a record of where the numbers come from."""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Callable, Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

import prospr_ops as po


def interleaved_seconds(
    sides: Mapping[str, Callable[[], Any]], *, seconds: float = 3.0, warmup: int = 3
) -> dict[str, list[float]]:
    """Times the sides in turn, round after round, so that the machine's drift hits all alike.

    Args:
        sides: What to time, by name; each call must return only when its work is done.
        seconds: How long to go on, at least 7 rounds.
        warmup: Calls of each side that are not counted.

    Returns:
        Seconds of each call, by name.
    """
    for _ in range(warmup):
        for side in sides.values():
            side()
    times: dict[str, list[float]] = {name: [] for name in sides}
    start = time.perf_counter()
    rounds = 0
    while rounds < 7 or time.perf_counter() - start < seconds:
        for name, side in sides.items():
            before = time.perf_counter()
            side()
            times[name].append(time.perf_counter() - before)
        rounds += 1
    return times


def environment() -> dict[str, Any]:
    """The machine, the versions and the threads behind a set of numbers."""
    processor = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        models = [line for line in cpuinfo.read_text().splitlines() if "model name" in line]
        processor = models[0].split(":", 1)[1].strip() if models else processor
    return {
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "processor": processor,
        "threads": tf.config.threading.get_intra_op_parallelism_threads()
        or len(os.sched_getaffinity(0)),
        **po.build_info(),
    }


def write_json(path: Path, record: Mapping[str, Any]) -> None:
    """Writes a record with its environment."""
    text = json.dumps({"environment": environment(), **record}, indent=2, default=float)
    path.write_text(text + "\n")


def median(times: list[float]) -> float:
    """The figure to quote: half of the calls were faster."""
    return float(np.median(times))
