"""TensorFlow, Keras and this package for another machine's GPU, in parts that are small enough to travel.

    python tools/gpu_tensorflow.py --python python3.12 --out DIR [--architecture 90] [--keep FOLDER]

Installs them with a Python like the other machine's, builds the ops with nvcc for its GPU alone, takes
from every library its symbol table and the device code of other GPUs, leaves out what neither an import
nor our tests need, and compresses the rest into DIR/part-1-of-N.xz and so on. tools/gpu/unpack.py
joins them there. NumPy is not in them: the other machine has one. `tools/gpu_bundle.py --tensorflow`
calls this.
"""

from __future__ import annotations

import argparse
import lzma
import mmap
import os
import shutil
import struct
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PART_BYTES = 53 << 20
# What a compressor may still hold back when a part is ended.
_HELD_BACK = 1 << 18

REQUIREMENTS = [
    "tensorflow~=2.21.0",
    "hypothesis",
    "matplotlib",
    "pytest",
    "rich",
    # CUDA's runtime of the version that TensorFlow was built with; the driver takes any.
    "nvidia-cuda-runtime-cu12==12.5.*",
]
BUILD_REQUIREMENTS = ["cmake", "ninja", "pybind11>=3.0", "scikit-build-core>=0.11"]
# Distributions' folders and files that stay here: the build's, NumPy, and what nothing imports.
LEFT_OUT = (
    "_distutils_hack", "_yaml", "bin", "clang", "cmake", "contourpy", "distutils-precedence.pth",
    "fontTools", "fonttools", "grpc", "grpcio", "h5py/tests", "kiwisolver", "libclang", "matplotlib",
    "mpl_toolkits", "ninja", "nvidia/cuda_runtime/include", "numpy", "PIL", "pillow", "pip",
    "pkg_resources", "pybind11", "pylab.py", "scikit_build_core", "setuptools", "wheel",
    "tensorflow/THIRD_PARTY_NOTICES.txt", "tensorflow/compiler/mlir/stablehlo", "tensorflow/include",
    "tensorflow/xla_aot_runtime_src",
)  # fmt: skip
# Libraries that an import wants, and nothing of ours calls: empty modules in their place.
EMPTY = {
    "tensorflow/python/profiler/internal/_pywrap_profiler_plugin.so":
        "tensorflow/python/profiler/internal/_pywrap_profiler_plugin.py",
}  # fmt: skip
_UNNEEDED_SUFFIXES = (".a", ".h", ".pyc", ".pyi", ".whl")


def blank_device_code(file: Path, architecture: int) -> tuple[int, int]:
    """Zeroes the device code of a library that a GPU does not run; returns bytes kept and zeroed.

    Of each fat binary the newest machine code that the GPU runs stays, or else the newest PTX that
    its driver can compile. The driver chooses by the headers, which stay, and never looks at the rest.
    """
    kept = zeroed = 0
    with file.open("r+b") as opened, mmap.mmap(opened.fileno(), 0) as data:
        for entries in fat_binaries(data):
            runs = [e for e in entries if not e.is_ptx and _runs(e.architecture, architecture)]
            compiles = [e for e in entries if e.is_ptx and e.architecture <= architecture]
            best = max(runs or compiles, key=lambda e: e.architecture, default=None)
            for entry in entries:
                if best and (entry.is_ptx, entry.architecture) == (best.is_ptx, best.architecture):
                    kept += entry.size
                else:
                    data[entry.begin : entry.begin + entry.size] = bytes(entry.size)
                    zeroed += entry.size
    return kept, zeroed


def _runs(code: int, gpu: int) -> bool:
    """Whether a GPU runs machine code: of its generation, and no newer."""
    return code // 10 == gpu // 10 and code <= gpu


class Entry:
    """Code for one architecture in a fat binary.

    Attributes:
        is_ptx: Whether it is PTX; else machine code.
        architecture: 90 for sm_90 or compute_90.
        begin: Where it begins in the file.
        size: Its bytes.
    """

    def __init__(self, is_ptx: bool, architecture: int, begin: int, size: int) -> None:
        self.is_ptx, self.architecture, self.begin, self.size = is_ptx, architecture, begin, size


_MAGIC = struct.pack("<I", 0xBA55ED50)
_HEADER = struct.Struct("<IHHQ")  # magic, version, size of this header, size of the rest
_ENTRY = struct.Struct("<HHIQ12xI")  # kind, version, size of this header, of the code, architecture
_PTX, _MACHINE_CODE = 1, 2


def fat_binaries(data: Any) -> Iterator[list[Entry]]:
    """The entries of each fat binary in a file, wherever it lies."""
    at = data.find(_MAGIC)
    while at >= 0:
        entries = _entries(data, at)
        if entries:
            yield entries
        at = data.find(_MAGIC, at + 8)


def _entries(data: Any, at: int) -> list[Entry]:
    """Of the fat binary that begins here; none if none does."""
    if at + _HEADER.size > len(data):
        return []
    _, version, header, rest = _HEADER.unpack_from(data, at)
    end = at + header + rest
    if version != 1 or header != _HEADER.size or end > len(data):
        return []
    entries = []
    place = at + header
    while place + _ENTRY.size <= end:
        kind, _, own, size, architecture = _ENTRY.unpack_from(data, place)
        if kind not in (_PTX, _MACHINE_CODE) or own < _ENTRY.size or place + own + size > end:
            return []
        entries.append(Entry(kind == _PTX, architecture, place + own, size))
        place += own + size
    return entries


class Parts:
    """A file to write to, that becomes compressed parts of at most PART_BYTES."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._paths = folder, [Path()][:0]
        self._open()

    def _open(self) -> None:
        # Three parts in 8 minutes of processor time, where preset 1 makes four in one: each has to travel.
        filters = [{"id": lzma.FILTER_X86}, {"id": lzma.FILTER_LZMA2, "preset": 9}]
        self._compressor = lzma.LZMACompressor(filters=filters)
        self._paths.append(self._folder / f"part-{len(self._paths) + 1}")
        self._file = self._paths[-1].open("wb")

    def write(self, data: bytes) -> int:
        """Compresses more."""
        step = 1 << 18
        for begin in range(0, len(data), step):
            if self._file.tell() > PART_BYTES - _HELD_BACK - step:
                self._end()
                self._open()
            self._file.write(self._compressor.compress(data[begin : begin + step]))
        return len(data)

    def _end(self) -> None:
        self._file.write(self._compressor.flush())
        self._file.close()

    def close(self) -> list[Path]:
        """Ends the last part, and says in every name how many there are."""
        self._end()
        count = len(self._paths)
        return [path.rename(path.with_name(f"{path.name}-of-{count}.xz")) for path in self._paths]


def _run(*command: Any) -> None:
    print("+", *command, flush=True)
    subprocess.run(list(map(str, command)), check=True)


def install(python: str, folder: Path, architecture: int) -> Path:
    """Makes an environment with everything in it, the ops built for one GPU; returns its packages."""
    own = folder / "bin/python"
    quiet = ["-q", "--disable-pip-version-check"]
    if not folder.exists():  # kept from an earlier time
        _run(python, "-m", "venv", folder)
        _run(own, "-m", "pip", "install", *quiet, *REQUIREMENTS, *BUILD_REQUIREMENTS)
    os.environ["PATH"] = os.pathsep.join([str(folder / "bin"), os.environ["PATH"]])
    _run(
        own, "-m", "pip", "install", *quiet, "--no-build-isolation", "--no-deps",
        "-C", "cmake.define.PROSPR_CUDA=ON",
        "-C", f"cmake.define.CMAKE_CUDA_ARCHITECTURES={architecture}-real",
        "-C", f"build-dir={folder.parent / 'build'}", ROOT,
    )  # fmt: skip
    (packages,) = folder.glob("lib/python*/site-packages")
    return packages


def wanted(packages: Path) -> list[Path]:
    """The files that travel, those of a kind side by side, relative to the folder of packages."""
    found = []
    for file in packages.rglob("*"):
        name = file.relative_to(packages)
        if not (_is_left_out(name) or name.name.endswith(_UNNEEDED_SUFFIXES)) and file.is_file():
            found.append(name)
    return sorted(found, key=lambda name: (name.suffix, name))


def _is_left_out(name: Path) -> bool:
    """Whether it is one of LEFT_OUT, in one, or in the metadata of one."""
    for left_out in LEFT_OUT:
        parts = Path(left_out).parts
        if name.parts[: len(parts)] == parts:
            return True
        if name.parts[0].startswith((f"{left_out}-", f"{left_out}.")):
            return True
    return False


def make(python: str, out: Path, architecture: int, work: Path) -> None:
    """Installs, slims and compresses."""
    packages = install(python, work / "venv", architecture)
    slim = work / "slim"
    names = wanted(packages)
    kept = zeroed = 0
    for number, name in enumerate(names):
        copy = slim / name
        copy.parent.mkdir(parents=True, exist_ok=True)
        if str(name) in EMPTY:
            names[number] = Path(EMPTY[str(name)])
            (slim / names[number]).touch()
            continue
        shutil.copyfile(packages / name, copy)
        if copy.open("rb").read(4) == b"\x7fELF":
            copy.chmod(0o755)
            subprocess.run(["strip", "--strip-unneeded", copy], check=True)
            sizes = blank_device_code(copy, architecture)
            kept, zeroed = kept + sizes[0], zeroed + sizes[1]
    size = sum((slim / name).stat().st_size for name in names)
    print(f"{len(names)} files, {size / 2**20:.0f} MiB; of device code {kept / 2**20:.0f} MiB "
          f"stay and {zeroed / 2**20:.0f} MiB are zeros")  # fmt: skip
    out.mkdir(parents=True)
    parts: Any = Parts(out)
    with tarfile.open(fileobj=parts, mode="w|") as archive:
        for name in names:
            archive.add(slim / name, str(name))
    for part in parts.close():
        print(f"{part}: {part.stat().st_size / 2**20:.1f} MiB")


def main() -> None:
    """Makes the parts."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--python", required=True, help="of the other machine's version")
    parser.add_argument("--out", type=Path, required=True, help="a folder that does not exist yet")
    parser.add_argument("--architecture", type=int, default=90, help="of its GPU (default: 90)")
    parser.add_argument("--keep", type=Path, help="folder for what lies between, to look at")
    options = parser.parse_args()
    if options.out.exists():
        sys.exit(f"{options.out} exists already; name a folder that does not")
    if options.keep:
        make(options.python, options.out, options.architecture, options.keep)
        return
    with tempfile.TemporaryDirectory() as work:
        make(options.python, options.out, options.architecture, Path(work))


if __name__ == "__main__":
    main()
