"""Tries faults and writes what came of them into the table of docs/robustness.md.

    python tools/faults.py [NAME ...]        all of them take two and a half hours

A fault is a function below that tries it and returns how often, and the outcome in words; its first
line of documentation is its name in the table. A row that was not asked for stays as it was.
"""

from __future__ import annotations

import functools
import json
import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import damage
from fuzz import KERNELS, MASKS

ROOT = Path(__file__).resolve().parents[1]
TABLE = ROOT / "docs" / "robustness.md"
SECONDS = 600  # of fuzzing, for each target

Outcome = tuple[int, str]


def _python(*arguments: object) -> str:
    """Standard output and error of a Python program that must succeed."""
    command = [sys.executable, *map(str, arguments)]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if result.returncode:
        sys.exit(f"{command} failed:\n{result.stdout[-4000:]}\n{result.stderr[-4000:]}")
    return result.stdout + result.stderr


def _json(*arguments: object) -> Any:
    """What such a program prints as JSON, before anything else."""
    return json.JSONDecoder().raw_decode(_python(*arguments))[0]


def random_arguments() -> Outcome:
    """Every op with random types, ranks, shapes, attributes and resources."""
    calls = 1000
    counts: Counter[str] = Counter()
    for of_one_op in _json("tests/support/random_calls.py", calls, 1).values():
        counts.update(of_one_op)
    refused, accepted = counts.pop("refused"), counts.pop("accepted")
    others = f"; {len(counts)} other errors" if counts else "; no crash and no other error"
    text = (
        f"{refused:,} refused with a TensorFlow error, ValueError or TypeError, {accepted:,} valid"
    )
    return refused + accepted + counts.total(), text + others


def _listed(outcomes: Mapping[str, int]) -> Outcome:
    return sum(outcomes.values()), ", ".join(f"{n:,} {what}" for what, n in outcomes.items())


def damaged(kind: str) -> Outcome:
    """Damage to {}: cut short at every byte, every bit of it flipped."""
    return _listed(damage.damaged(kind))


def full_disk(kind: str) -> Outcome:
    """A disk that is full while {} is replaced, after every number of bytes."""
    return _listed(damage.full_disk(kind))


def full_disk_of_commands() -> Outcome:
    """A disk that is full, at 20 sizes, while each command of the shell replaces a file."""
    return _listed(damage.full_disk_of_commands())


def forbidden_folder() -> Outcome:
    """Each command of the shell is to write to a folder without the permission."""
    return _listed(damage.forbidden_folder())


def _interrupted(command: str, tries: int) -> Counter[str]:
    """What happened to runs that were killed or interrupted, all methods together."""
    counts: Counter[str] = Counter()
    for run in _json("tests/support/interrupted.py", command, tries).values():
        counts.update({what: n for what, n in run.items() if isinstance(n, int)})
    return counts


def killed() -> Outcome:
    """SIGKILL at a random moment of a run with a checkpoint, which then goes on."""
    counts = _interrupted("kill", 56)
    return counts["kills"], (
        f"{counts['ends']} runs came to their end, all with the masks, scores and losses of a run "
        f"left alone, bit for bit; {counts['before the first checkpoint']} were killed before the "
        f"first checkpoint, {counts['while writing']} while one was written"
    )


def interrupted() -> Outcome:
    """Ctrl-C at a random moment of a run."""
    counts = _interrupted("interrupt", 42)
    return counts.total(), (
        f"{counts.total() - counts['too late']} came in time, and all models were as before, bit for "
        f"bit, without a mask; TensorFlow made another error of {counts['another error']}"
    )


def lost_worker(fault: str) -> Outcome:
    """A worker of two or four is lost in the midst of a run: {}."""
    lost = [(2, 0), (2, 1), (4, 0), (4, 2)] * 2
    others = [worker for who in lost for worker in _json("tests/support/workers.py", *who, fault)]
    seconds = [worker for worker in others if worker is not None]
    crashed = f"; but in {others.count(None)} TensorFlow crashed" if None in others else ""
    return len(lost), (
        f"{len(seconds)} of {len(others)} other workers had an error {min(seconds):.1f} to "
        f"{max(seconds):.1f} s after it, and their models as before{crashed}"
    )


def sanitized(sanitizer: str) -> Outcome:
    """The kernels' tests on NumPy arrays under sanitizers: {}."""
    printed = _python("tools/sanitize.py", sanitizer)
    tests = int(re.findall(r"(\d+) passed", printed)[-1])
    seeds = re.findall(r"(\d+) seeds of fuzzing", printed)
    planted = re.findall(r"the planted (.*) was found", printed)[-1]
    total = tests + sum(map(int, seeds))
    return total, f"nothing reported; a planted {planted} was"


def fuzzed(target: str) -> Outcome:
    """Fuzzing, guided by coverage: {}."""
    printed = _python("tools/fuzz.py", target, "--seconds", SECONDS)
    inputs = int(re.findall(r"number_of_executed_units: (\d+)", printed)[-1])
    return inputs, f"nothing found in {SECONDS} s"


# Where one function tries several faults, by what it is given.
FAULTS: dict[str, Callable[[], Outcome]] = {
    "random_arguments": random_arguments,
    "damaged_masks": functools.partial(damaged, "a file of masks"),
    "damaged_checkpoint": functools.partial(damaged, "a checkpoint"),
    "full_disk_masks": functools.partial(full_disk, "a file of masks"),
    "full_disk_checkpoint": functools.partial(full_disk, "a checkpoint"),
    "full_disk_commands": full_disk_of_commands,
    "forbidden_folder": forbidden_folder,
    "killed": killed,
    "interrupted": interrupted,
    "lost_SIGKILL": functools.partial(lost_worker, "SIGKILL"),
    "lost_SIGSTOP": functools.partial(lost_worker, "SIGSTOP"),
    "lost_STALL": functools.partial(lost_worker, "STALL"),
    "sanitized_address": functools.partial(sanitized, "address"),
    "sanitized_thread": functools.partial(sanitized, "thread"),
    **{f"fuzzed_{target}": functools.partial(fuzzed, target) for target in (*KERNELS, *MASKS)},
}


def _title(fault: Callable[[], Outcome]) -> str:
    """The first column of its row."""
    function = fault.func if isinstance(fault, functools.partial) else fault
    given = fault.args if isinstance(fault, functools.partial) else ()
    return str(function.__doc__).rstrip(".").format(*given)


def _write(title: str, row: str) -> None:
    """Replaces or adds a row of the table, which is kept in the order of `FAULTS`."""
    before, rule, after = TABLE.read_text().partition("| --- | ---: | --- |\n")
    table, _, after = after.partition("\n\n")
    rows = dict(re.findall(r"^\| (.*?) (\| .* \|)$", table, re.MULTILINE)) | {title: row}
    lines = [f"| {fault} {rows[fault]}" for fault in map(_title, FAULTS.values()) if fault in rows]
    TABLE.write_text(before + rule + "\n".join(lines) + "\n\n" + after)


def main() -> None:
    """Tries the faults that were asked for and rewrites their rows."""
    names = sys.argv[1:] or list(FAULTS)
    if unknown := set(names) - FAULTS.keys():
        sys.exit(f"no such fault: {sorted(unknown)}; there are {list(FAULTS)}")
    for name in names:
        start = time.monotonic()
        tries, outcome = FAULTS[name]()
        title = _title(FAULTS[name])
        _write(title, f"| {tries:,} | {outcome} |")
        print(f"{title}: {tries:,}; {outcome} ({time.monotonic() - start:.0f} s)", flush=True)


if __name__ == "__main__":
    main()
