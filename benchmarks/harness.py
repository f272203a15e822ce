"""Timing, and a record of where the numbers come from."""

from __future__ import annotations

import json
import multiprocessing
import os
import platform
import resource
import time
from collections.abc import Callable, Mapping
from datetime import datetime, timezone
from multiprocessing.pool import Pool
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

import prospr_ops as po


def interleaved_seconds(
    sides: Mapping[str, Callable[[], Any]],
    *,
    seconds: float = 3.0,
    warmup: int = 3,
    rounds: int = 7,
    burst: int = 1,
) -> dict[str, list[float]]:
    """Times the sides in turn, round after round, so that the machine's drift hits all alike.

    Args:
        sides: What to time, by name; each call must return only when its work is done.
        seconds: How long to go on.
        warmup: Calls of each side that are not counted.
        rounds: To make at least, however long they take.
        burst: Calls of a side in a row in each round; of several the first is not counted, which
            finds the caches full of another side's data.

    Returns:
        Seconds of each call, by name.
    """
    for _ in range(warmup):
        for side in sides.values():
            side()
    times: dict[str, list[float]] = {name: [] for name in sides}
    start = time.perf_counter()
    done = 0
    while done < rounds or time.perf_counter() - start < seconds:
        for name, side in sides.items():
            calls = []
            for _ in range(burst):
                before = time.perf_counter()
                side()
                calls.append(time.perf_counter() - before)
            times[name].extend(calls[1:] or calls)
        done += 1
    return times


def fresh_processes() -> Pool:
    """A pool that runs one call at a time, each in a new process that has done nothing before.

    The processes are forks of one that has loaded TensorFlow without starting it, which spares them
    the seconds that takes.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tensorflow", "keras"])
    return context.Pool(1, maxtasksperchild=1)


def peak_megabytes() -> float:
    """The most memory that this process has held so far, in 10⁶ bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6


def forget_peak_memory() -> None:
    """Makes `peak_megabytes` begin again, at what this process holds now (on Linux)."""
    Path("/proc/self/clear_refs").write_text("5")


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
