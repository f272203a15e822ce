"""Builds, tests, times and compares all kernels on this machine's card, and writes what it found.

    run.sh [--out FOLDER] [--deadline SECONDS] [--only WORD ...] [--emulate]

Writes results.json, results.md and log.txt into the folder, anew after every step. A step that fails
or takes too long is recorded, and the next one begins; when the time is over, what is left is
printed. `--emulate` runs the same steps on tiny sizes in the emulation of tests/cuda. Exits with 1
if a step failed. Needs Python 3.10, NumPy, g++ and nvcc; PyTorch and CuPy for the comparisons, and
compute-sanitizer.
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import compiling
from cases import EXPECTED_CARD, SHARE_OF_MEMORY, rates
from tables import markdown

HERE = Path(__file__).resolve().parent
LISTS = {"check": "checks", "timing": "timings", "comparison": "comparisons"}
# Those that a sanitizer must find something in.
PLANTED = {"racecheck": "race", "memcheck": "overrun"}
FOUND = 9  # what a sanitizer exits with
DIFFER = "the results differ"  # of a comparison


class Session:
    """The steps of one run, and what they found."""

    def __init__(
        self, out: Path, deadline: float, environment: dict[str, Any], only: list[str] | None = None
    ) -> None:  # fmt: skip
        self.out, self.end, self._only = out, time.monotonic() + deadline, only or []
        self.results: dict[str, Any] = {"environment": environment, "steps": []}
        self.results |= {name: [] for name in LISTS.values()}
        out.mkdir(parents=True, exist_ok=True)
        self._log = (out / "log.txt").open("w")

    def step(
        self, name: str, command: list[Any], *, limit: float, needs: float = 5, wanted: int = 0,
        environment: dict[str, str] | None = None, folder: Path | None = None,
    ) -> bool:  # fmt: skip
        """Runs a command; whether it exited as wanted, within its limit and the deadline."""
        if self._only and not any(word in name for word in self._only):
            return self._record(name, "skipped", 0, "not asked for", "")
        left = self.end - time.monotonic()
        if left < needs:
            return self._record(name, "left", 0, f"{max(left, 0):.0f} s left", "")
        started = time.monotonic()
        with tempfile.TemporaryFile("w+") as output:
            process = subprocess.Popen(
                list(map(str, command)), stdout=output, stderr=subprocess.STDOUT,
                env={**os.environ, **(environment or {})}, cwd=folder, start_new_session=True,
            )  # fmt: skip
            try:
                code: int | None = process.wait(min(limit, left))
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)  # with what it started
                process.wait()
                code = None
            output.seek(0)
            text = output.read()
        said, failed = self._take(text)
        seconds = time.monotonic() - started
        if code is None:
            return self._record(name, "timed out", seconds, said, text)
        if code != wanted:
            note = f"exit {code}{f', not {wanted}' if wanted else ''}; {said}"
            return self._record(name, "failed", seconds, note, text)
        if failed:
            return self._record(name, "failed", seconds, f"{failed} results are wrong", text)
        return self._record(name, "passed", seconds, "", text)

    def skip(self, name: str, why: str) -> None:
        """Records a step that cannot be taken here, or could have been if there were time."""
        self._record(name, "skipped" if time.monotonic() < self.end else "left", 0, why, "")

    def _take(self, text: str) -> tuple[str, int]:
        """Keeps the results in a step's output; what it said last, and how many checks failed."""
        said, failed = [], 0
        for line in text.splitlines():
            if not line.startswith('{"result"'):
                said.append(line)
                continue
            try:
                result = json.loads(line)
            except json.JSONDecodeError:
                continue  # cut off when its process was ended
            kind = result.pop("result")
            if kind == "timing":
                result = self._with_bounds(result)
            elif kind == "comparison":
                result["bound_ms"] = self._bound(result)
            failed += result.get("status") == "failed" or result.get("note") == DIFFER
            self.results[LISTS[kind]].append(result)
        wrong = [line for line in said if "FAILED" in line or "rror" in line] or said
        return "; ".join(wrong[:1] + wrong[-1:] if len(wrong) > 1 else wrong)[:300], failed

    def _with_bounds(self, row: dict[str, Any]) -> dict[str, Any]:
        """A timing with what the card's data sheet and docs/cuda.md say."""
        bound = self._bound(row) if row["dtype"] == "float32" or not row["flop"] else None
        known = rates(self.results["environment"]["card"]) is not None
        expected = row.get("expected_ms") if known else None
        if bound and not row["flop"]:  # what only moves memory
            expected = bound / SHARE_OF_MEMORY
        return {**row, "bound_ms": bound, "expected_ms": expected}

    def _bound(self, row: dict[str, Any]) -> float | None:
        """Milliseconds that the card needs at least, by its data sheet, for what a row moves and computes."""
        card = rates(self.results["environment"]["card"])
        if card is None or not row["bytes"]:
            return None
        flops, memory = card
        return 1e3 * max((row["flop"] or 0) / flops / 1e12, row["bytes"] / memory / 1e12)

    def _record(self, name: str, status: str, seconds: float, note: str, text: str) -> bool:
        step = {"name": name, "status": status, "seconds": round(seconds, 1), "note": note}
        self.results["steps"].append(step)
        print(f"{status:9} {seconds:5.0f} s  {name}  {note}", flush=True)
        self._log.write(f"\n=== {name}: {status}, {seconds:.1f} s, {note}\n{text}")
        self._log.flush()
        text = json.dumps(self.results, indent=1, ensure_ascii=False)
        (self.out / "results.json").write_text(text + "\n")
        (self.out / "results.md").write_text("\n".join(markdown(self.results)) + "\n")
        return status == "passed"

    def of(self, *statuses: str) -> list[str]:
        """The steps that ended so."""
        return [step["name"] for step in self.results["steps"] if step["status"] in statuses]

    def finish(self) -> int:
        """Names what is left and what failed; returns 1 if a step failed."""
        for title, statuses in (("left to do", ["left"]), ("failed", ["failed", "timed out"])):
            if names := self.of(*statuses):
                print(f"{title}: {', '.join(names)}")
        print(f"wrote {self.out}/results.json, results.md and log.txt")
        return int(bool(self.of("failed", "timed out")))


def ask(*command: str) -> str:
    """The first line that a command prints, or nothing."""
    try:
        result = subprocess.run(command, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return ""
    return result.stdout.strip().splitlines()[0] if result.stdout.strip() else ""


def commit() -> str:
    """Of the bundle, or of the repository."""
    file = compiling.ROOT / "COMMIT"
    if file.exists():
        return file.read_text().strip()
    return ask("git", "-C", str(compiling.ROOT), "rev-parse", "--short", "HEAD") or "unknown"


def test_names(program: Path) -> list[str]:
    """The tests that a program of tests/cuda has, from its usage."""
    usage = subprocess.run([program], capture_output=True, text=True, check=False).stderr
    names = re.findall(r"\w+", usage.partition(str(program))[2])
    return [name for name in names if name not in PLANTED.values()]


def card_environment(*, emulate: bool) -> dict[str, Any] | None:
    """Where and when the results are made; None where there is no card and it is not emulated."""
    os.environ["PATH"] += os.pathsep + "/usr/local/cuda/bin"
    query = ask(
        "nvidia-smi", "--query-gpu=compute_cap,name,driver_version", "--format=csv,noheader"
    )
    if emulate:
        architecture, card, compiler = compiling.EMULATION, "no card", ask("g++", "--version")
    elif query:
        capability, card, driver = (part.strip() for part in query.split(","))
        architecture = f"sm_{capability.replace('.', '')}"
        card = f"{card} (driver {driver})"
        release = re.search(r"release [\d.]+", subprocess.getoutput("nvcc --version"))
        compiler = f"nvcc {release[0]}" if release else "no nvcc"
    else:
        return None
    return {
        "card": card, "architecture": architecture, "emulated": emulate,
        "date": dt.date.today().isoformat(), "commit": commit(), "compiler": compiler,
        "expectations": EXPECTED_CARD,
    }  # fmt: skip


def main() -> int:
    """Takes all steps."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("results"))
    parser.add_argument("--deadline", type=float, default=480, help="seconds in all")
    parser.add_argument(
        "--only",
        nargs="+",
        metavar="WORD",
        help="the build, and steps with one of these in their names",
    )
    parser.add_argument("--emulate", action="store_true", help="without a GPU, on tiny sizes")
    options = parser.parse_args()
    environment = card_environment(emulate=options.emulate)
    if environment is None:
        print("nvidia-smi names no GPU; --emulate runs without one", file=sys.stderr)
        return 2
    only = ["build", *options.only] if options.only else []
    session = Session(options.out, options.deadline, environment, only)
    take_steps(session, environment["architecture"], emulate=options.emulate)
    return session.finish()


def take_steps(session: Session, architecture: str, *, emulate: bool) -> None:
    """The most telling first: right, then fast, then the sanitizers."""
    objects = session.out / "build"
    session.step("build", [sys.executable, HERE / "compiling.py", objects, architecture], limit=150)
    program, library = objects / "kernel-tests", objects / "libkernels.so"
    tests = test_names(program) if program.exists() else []
    if not tests:
        session.skip("tests of tests/cuda", "their program was not built")
    blocking = {"CUDA_LAUNCH_BLOCKING": "1"}  # arrays are read without waiting
    for test in tests:
        session.step(f"test {test}", [program, test], limit=45, environment=blocking)
    parts = [
        ("measure.py layers", 70), ("elementwise.py", 60), ("measure.py times", 90),
        ("compare.py gamma", 80), ("compare.py select", 50), ("compare.py contraction", 50),
        ("networks.py", 60), ("measure.py large", 90),
    ]  # fmt: skip
    for part, limit in parts:
        name = part.replace(".py", "")
        if library.exists():
            file, *which = part.split()
            tiny = ["--tiny"] if emulate else []
            command = [sys.executable, HERE / file, library, *which, *tiny]
            session.step(name, command, limit=limit)
        else:
            session.skip(name, "the library was not built")
    sanitizer = shutil.which("compute-sanitizer")
    if sanitizer is None or emulate:
        why = "the emulation has its own" if emulate else "there is no compute-sanitizer"
        session.skip("compute-sanitizer", why)
        return
    for tool, mistake in PLANTED.items() if tests else ():
        command = [sanitizer, "--tool", tool, "--error-exitcode", FOUND, program]
        planted = f"{tool}, planted {mistake}"
        session.step(planted, [*command, mistake], limit=30, wanted=FOUND, environment=blocking)
        for test in tests:
            if test != "launch":  # which must fail
                step = f"{tool} {test}"
                session.step(step, [*command, test], limit=60, environment=blocking)


if __name__ == "__main__":
    sys.exit(main())
