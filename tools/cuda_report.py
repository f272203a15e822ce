"""Looks into the built op library: is every architecture in it, and does any kernel spill?

Prints each kernel's registers and shared memory, the most of all architectures, and fails if machine
code or PTX that the build names is not there, or if a kernel keeps anything in local memory. Needs
cuobjdump, of the CUDA toolkit or of `pip install nvidia-cuda-cuobjdump`.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import sysconfig
from collections import defaultdict
from pathlib import Path

from prospr_ops import _native


def _cuobjdump() -> str:
    packaged = Path(sysconfig.get_path("purelib")).glob("nvidia/*/bin/cuobjdump")
    found = shutil.which("cuobjdump") or next(map(str, packaged), None)
    if found is None:
        sys.exit("no cuobjdump: pip install nvidia-cuda-cuobjdump, or put the CUDA toolkit on PATH")
    return found


def _short(name: str) -> str:
    """A demangled kernel without namespaces and arguments."""
    name = name.replace("(anonymous namespace)::", "").removeprefix("void ")
    return re.sub(r"\b(?:\w+::)+", "", re.sub(r"\(.*", "", name))


def main() -> None:
    """Prints the report; exits with a sentence if something is missing or spills."""
    assert _native.__file__ is not None
    library = Path(_native.__file__).with_name("_prospr_ops.so")
    wanted = set(_native.build_info()["cuda_architectures"])
    if not wanted:
        sys.exit(f"{library} was built without CUDA kernels")

    def dump(*options: str) -> str:
        command = [_cuobjdump(), *options, str(library)]
        text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        return subprocess.run(
            ["c++filt"], input=text, capture_output=True, text=True, check=True
        ).stdout

    code = set(re.findall(r"\b(sm_\w+)\.cubin", dump("--list-elf")))
    ptx = {f"compute_{number}" for number in re.findall(r"sm_(\w+)\.ptx", dump("--list-ptx"))}
    usage = re.findall(
        r"Function (.*):\n\s*REG:(\d+) STACK:(\d+) SHARED:(\d+) LOCAL:(\d+)",
        dump("--dump-resource-usage"),
    )
    most: dict[str, list[int]] = defaultdict(lambda: [0, 0, 0])
    for name, registers, stack, shared, local in usage:
        numbers = int(registers), int(shared), int(stack) + int(local)
        most[_short(name)] = list(map(max, most[_short(name)], numbers))

    print(f"{library.name}: {', '.join(sorted(code | ptx))}; {library.stat().st_size / 1e6:.1f} MB")
    print(f"{'registers':>9} {'shared':>7} {'local':>6}  kernel")
    for name, (registers, shared, local) in sorted(most.items()):
        print(f"{registers:9} {shared:7} {local:6}  {name}")
    if missing := wanted - code - ptx:
        sys.exit(f"not in the library: {', '.join(sorted(missing))}")
    if spilling := [name for name, (_, _, local) in most.items() if local]:
        sys.exit(f"in local memory: {', '.join(spilling)}")


if __name__ == "__main__":
    main()
