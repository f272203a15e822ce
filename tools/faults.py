"""Tries faults and writes what came of them into the table of docs/robustness.md.

    python tools/faults.py [NAME ...]        all of them take two hours

A fault is a function below that tries it and returns how often, and the outcome in words; its first
line of documentation is its name in the table. A row that was not asked for stays as it was.
"""

from __future__ import annotations

import functools
import json
import re
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
from fuzz import KERNELS, MASKS

from prospr_ops import storage

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


def random_arguments() -> Outcome:
    """Every op with random types, ranks, shapes, attributes and resources."""
    calls = 1000
    printed = _python("tests/random_calls.py", calls, 1)
    counts: Counter[str] = Counter()
    for of_one_op in json.loads(printed[printed.index("{") : printed.index("}}") + 2]).values():
        counts.update(of_one_op)
    refused, accepted = counts.pop("refused"), counts.pop("accepted")
    others = f"; {len(counts)} other errors" if counts else "; no crash and no other error"
    text = (
        f"{refused:,} refused with a TensorFlow error, ValueError or TypeError, {accepted:,} valid"
    )
    return refused + accepted + counts.total(), text + others


def damaged_mask_files() -> Outcome:
    """A file of masks, cut short at every byte, and with every bit of it flipped."""
    masks = {"kernel": np.random.default_rng(0).random((5, 5)) < 0.5}
    counts: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "masks.npz"
        storage.write(file, masks, {}, {})
        whole = file.read_bytes()
        damaged = [whole[:length] for length in range(len(whole))]
        for bit in range(8 * len(whole)):
            flipped = bytearray(whole)
            flipped[bit // 8] ^= 1 << bit % 8
            damaged.append(bytes(flipped))
        for data in damaged:
            file.write_bytes(data)
            try:
                same = np.array_equal(storage.read(file)[0]["kernel"], masks["kernel"])
            except ValueError:
                counts["refused with a ValueError"] += 1
            else:
                counts["read, with the right masks" if same else "READ, WITH WRONG MASKS"] += 1
    return len(damaged), ", ".join(f"{count:,} {what}" for what, count in counts.items())


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
    "damaged_mask_files": damaged_mask_files,
    "sanitized_address": functools.partial(sanitized, "address"),
    "sanitized_thread": functools.partial(sanitized, "thread"),
    **{f"fuzzed_{target}": functools.partial(fuzzed, target) for target in (*KERNELS, *MASKS)},
}


def _title(fault: Callable[[], Outcome]) -> str:
    """The first column of its row."""
    function = fault.func if isinstance(fault, functools.partial) else fault
    given = fault.args if isinstance(fault, functools.partial) else ()
    return str(function.__doc__).rstrip(".").format(*given)


def main() -> None:
    """Tries the faults that were asked for and rewrites their rows."""
    names = sys.argv[1:] or list(FAULTS)
    if unknown := set(names) - FAULTS.keys():
        sys.exit(f"no such fault: {sorted(unknown)}; there are {list(FAULTS)}")
    text = TABLE.read_text()
    before, rule, table = text.partition("| --- | ---: | --- |\n")
    rows = dict(re.findall(r"^\| (.*?) (\| .* \|)$", table.split("\n\n")[0], re.MULTILINE))
    after = table[len(table.split("\n\n")[0]) :]
    for name in names:
        tries, outcome = FAULTS[name]()
        title = _title(FAULTS[name])
        rows[title] = f"| {tries:,} | {outcome} |"
        print(f"{title}: {tries:,}; {outcome}", flush=True)
        lines = [f"| {row} {rows[row]}" for row in map(_title, FAULTS.values()) if row in rows]
        TABLE.write_text(before + rule + "\n".join(lines) + (after or "\n"))


if __name__ == "__main__":
    main()
