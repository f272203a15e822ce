"""Timing, and a record of where the numbers come from."""

from __future__ import annotations

import json
import multiprocessing
import os
import platform
import resource
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from datetime import datetime, timezone
from multiprocessing.pool import Pool
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

import prospr_ops as po

# In the environment, so that processes of a benchmark's own know it too.
_DEVICE = "PROSPR_BENCHMARK_DEVICE"


def use_device(name: str) -> AbstractContextManager[None]:
    """Within this context benchmarks run on the "cpu" or on the "gpu".

    Raises:
        RuntimeError: There is no GPU, or this build has no kernels for one.
    """
    if name == "gpu":
        if not po.build_info()["cuda"]:
            msg = "this build of prospr_ops has no CUDA kernels; install it where nvcc is (PROSPR_CUDA)"
            raise RuntimeError(msg)
        if not tf.config.list_physical_devices("GPU"):
            msg = "TensorFlow sees no GPU here, so there is nothing to run --device gpu on"
            raise RuntimeError(msg)
    os.environ[_DEVICE] = name
    return tf.device(f"{name}:0")


def on_gpu() -> bool:
    """Whether the benchmark runs on a GPU."""
    return os.environ.get(_DEVICE) == "gpu"


def _seconds_of_burst(side: Callable[[], Any], burst: int) -> list[float]:
    """Seconds of each call; on a GPU, which calls do not wait for, their mean."""
    if on_gpu():
        tf.test.experimental.sync_devices()
        before = time.perf_counter()
        for _ in range(burst):
            side()
        tf.test.experimental.sync_devices()
        return [(time.perf_counter() - before) / burst]
    calls = []
    for _ in range(burst):
        before = time.perf_counter()
        side()
        calls.append(time.perf_counter() - before)
    return calls[1:] or calls


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
        sides: What to time, by name; on the CPU each call must return only when its work is done.
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
            times[name].extend(_seconds_of_burst(side, burst))
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
    """The most memory, the GPU's where it runs there, that this process has held, in 10⁶ bytes."""
    if on_gpu():
        return tf.config.experimental.get_memory_info("GPU:0")["peak"] / 1e6
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6


def forget_peak_memory() -> None:
    """Makes `peak_megabytes` begin again, at what this process holds now (on Linux)."""
    if on_gpu():
        tf.config.experimental.reset_memory_stats("GPU:0")
        return
    Path("/proc/self/clear_refs").write_text("5")


def environment() -> dict[str, Any]:
    """The machine, the versions and the threads behind a set of numbers."""
    processor = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        models = [line for line in cpuinfo.read_text().splitlines() if "model name" in line]
        processor = models[0].split(":", 1)[1].strip() if models else processor
    gpus = tf.config.list_physical_devices("GPU") if on_gpu() else []
    return {
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "processor": processor,
        "gpus": [tf.config.experimental.get_device_details(gpu) for gpu in gpus],
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
