"""Processes that score together: replicas of one machine, or the workers of a cluster, some of them lost.

    python tests/support/workers.py COUNT LOST FAULT     prints the seconds until each other one had an error

The fault is SIGKILL or SIGSTOP, sent to the worker in the midst of a run; or STALL: its data do not come.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np

SCRIPT = Path(__file__).with_name("distributed.py")
# Seconds within which a lost worker is an error on the others: TensorFlow's heartbeat takes 10.
LOST = 60
# Seconds for which data do not come: ten times the strategy's timeout.
PAUSE = 200


def start(out: Path, replicas: int, *cases: str, **environment: str) -> subprocess.Popen[str]:
    """A process that runs cases of distributed.py."""
    return subprocess.Popen(
        [sys.executable, "-W", "error", str(SCRIPT), str(out), str(replicas), *cases],
        # No GPU, and one thread an op: the processes share a few cores.
        env={
            **os.environ,
            "CUDA_VISIBLE_DEVICES": "-1",
            "TF_NUM_INTRAOP_THREADS": "1",
            **environment,
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: subprocess.Popen[str], seconds: float = 1800) -> None:
    """Waits for its end, which must be a good one."""
    _, errors = process.communicate(timeout=seconds)
    assert process.returncode == 0, errors[-4000:]


@contextmanager
def cluster(
    folder: Path, count: int, *cases: str, **environment: str
) -> Iterator[list[subprocess.Popen[str]]]:
    """As many processes on this machine, which write 0.npz, 1.npz, … to the folder."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for bound in sockets:
            bound.bind(("localhost", 0))
        addresses = {"worker": [f"localhost:{bound.getsockname()[1]}" for bound in sockets]}
    configurations = [
        json.dumps({"cluster": addresses, "task": {"type": "worker", "index": index}})
        for index in range(count)
    ]
    processes = [
        start(folder / f"{index}.npz", count, *cases, TF_CONFIG=configuration, **environment)
        for index, configuration in enumerate(configurations)
    ]
    try:
        yield processes
    finally:
        for process in processes:
            process.kill()
            process.communicate()


def lose(folder: Path, count: int, lost: int, fault: str) -> list[float | None]:
    """Has a run lose a worker: the others must report an error, have their models back, and end.

    Returns:
        For each of the others the seconds from the fault until its error; None if TensorFlow crashed.
    """
    pause = {"PAUSE": str(PAUSE), "PAUSED": str(lost)} if fault == "STALL" else {}
    with cluster(folder, count, "endless", **pause) as processes:
        for process in processes:
            assert process.stdout.readline() == "running\n", process.communicate()[1][-4000:]
        since = time.monotonic()
        if not pause:
            processes[lost].send_signal(signal.Signals[fault])
        return [
            _seconds(folder / f"{index}.npz", process, since)
            for index, process in enumerate(processes)
            if index != lost
        ]


def _seconds(out: Path, process: subprocess.Popen[str], since: float) -> float | None:
    _, errors = process.communicate(timeout=LOST)
    if process.returncode == -signal.SIGSEGV:
        return None
    assert process.returncode == 0, errors[-4000:]
    found = np.load(out)
    assert found["error"] in ("UnavailableError", "DeadlineExceededError", "AbortedError")
    assert found["restored"].all()
    return float(found["at"]) - since


def main(count: str, lost: str, fault: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        json.dump(lose(Path(folder), int(count), int(lost), fault), sys.stdout)


if __name__ == "__main__":
    main(*sys.argv[1:])
