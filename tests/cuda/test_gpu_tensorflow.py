"""How TensorFlow travels to a machine with a GPU: slimmed, in parts, with CUDA's libraries there."""

from __future__ import annotations

import random
import struct
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PTX, CODE = 1, 2


@pytest.fixture
def tool(monkeypatch):
    monkeypatch.syspath_prepend(ROOT)
    from tools import gpu_tensorflow

    return gpu_tensorflow


def _fat_binary(*entries: tuple[int, int, bytes]) -> bytes:
    """As nvcc lays them out."""
    rest = b""
    for kind, architecture, payload in entries:
        header = struct.pack("<HHIQIIHHI", kind, 0x101, 64, len(payload), 0, 0, 0, 0, architecture)
        rest += header.ljust(64, b"\0") + payload
    return struct.pack("<IHHQ", 0xBA55ED50, 1, 16, len(rest)) + rest


@pytest.mark.parametrize(
    ("gpu", "stays"),
    [
        # Machine code of the same generation that is not newer, or else the newest PTX.
        (90, {b"code of 90"}),
        (86, {b"code of 80"}),
        (80, {b"code of 80"}),
        (100, {b"text of 90"}),
        (75, {b"text of 60"}),
    ],
)
def test_only_the_code_that_a_gpu_takes_stays(tool, tmp_path, gpu, stays):
    codes = [
        (PTX, 60, b"text of 60"), (CODE, 80, b"code of 80"), (CODE, 90, b"code of 90"),
        (PTX, 90, b"text of 90"),
    ]  # fmt: skip
    # The number alone makes no fat binary, nor does one that goes on past the end.
    before, after = b"\x50\xed\x55\xba no fat binary", _fat_binary((CODE, 70, b"cut off"))[:-1]
    whole = before + _fat_binary(*codes) + b"between" + _fat_binary((CODE, 50, b"other")) + after
    file = tmp_path / "library.so"
    file.write_bytes(whole)
    kept, zeroed = tool.blank_device_code(file, gpu)
    found = file.read_bytes()
    assert {payload for _, _, payload in codes if payload in found} == stays
    assert b"other" not in found
    assert b"cut of" in found
    assert kept == 10
    assert zeroed == 35
    assert len(found) == len(whole)
    assert found.count(0) >= whole.count(0) + zeroed


def _unpack(folder: Path, into: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, ROOT / "tools/gpu/unpack.py", folder, into]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_parts_are_small_enough_and_join_to_what_they_were_made_of(tool, tmp_path, monkeypatch):
    monkeypatch.setattr(tool, "PART_BYTES", 4 << 20)
    content = {f"{i}/file": random.Random(i).randbytes(3 << 20) for i in range(3)}
    parts = tool.Parts(tmp_path)
    with tarfile.open(fileobj=parts, mode="w|") as archive:
        for name, data in content.items():
            (tmp_path / "one").write_bytes(data)
            archive.add(tmp_path / "one", name)
    (tmp_path / "one").unlink()
    paths = parts.close()
    count = len(paths)
    assert [path.name for path in paths] == [f"part-{i + 1}-of-{count}.xz" for i in range(count)]
    assert count >= 3
    assert all(path.stat().st_size <= 4 << 20 for path in paths)
    result = _unpack(tmp_path, tmp_path / "joined")
    assert result.returncode == 0, result.stderr
    for name, data in content.items():
        assert (tmp_path / "joined" / name).read_bytes() == data
    paths[1].unlink()
    assert f"of {count} parts, 2 are not in" in _unpack(tmp_path, tmp_path / "again").stderr


def test_files_that_nothing_imports_stay_here(tool, tmp_path):
    for name in (
        "tensorflow/__init__.py", "tensorflow/include/a.h", "tensorflow/x.pyi", "numpy/__init__.py",
        "numpy-2.4.dist-info/METADATA", "keras/a.py", "keras/__pycache__/a.pyc", "pip/a.py",
        "wheel-1.dist-info/METADATA", "nvidia/cuda_runtime/lib/libcudart.so.12", "pipelines/a.py",
    ):  # fmt: skip
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert {str(name) for name in tool.wanted(tmp_path)} == {
        "tensorflow/__init__.py", "keras/a.py", "nvidia/cuda_runtime/lib/libcudart.so.12",
        "pipelines/a.py",
    }  # fmt: skip


def test_libraries_get_the_names_that_tensorflow_knows(tmp_path):
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib/libcublas.so.13").touch()
    code = f"""
from pathlib import Path
from with_tensorflow import LIBRARIES, link_libraries
into, lib = Path({str(tmp_path / "links")!r}), Path({str(tmp_path / "lib")!r})
for _ in range(2):  # the second time over the first's links
    missing = link_libraries(into, [lib / "none", lib])
assert missing == [here for here in LIBRARIES.values() if here != "libcublas.so.13"]
print([(path.name, path.resolve().name) for path in into.iterdir()])
"""
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT / "tools/gpu", capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert result.stdout.strip() == "[('libcublas.so.12', 'libcublas.so.13')]", result.stderr
