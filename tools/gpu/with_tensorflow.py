"""Runs the ops in TensorFlow on this machine's card, with the parts that gpu_tensorflow.py made.

    run_tensorflow.sh --parts FOLDER [--out FOLDER] [--deadline SECONDS] [--only WORD ...] [--rehearse]

Joins the parts; gives TensorFlow the CUDA libraries that this machine's Python packages hold under
the names that it asks for; and runs `pytest -m gpu` and the benchmarks on the card, shortened. Writes
what driver.py writes. `--rehearse` goes as far as it can be gone without a card.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

import compiling
from driver import Session, card_environment

HERE = Path(__file__).resolve().parent
# What TensorFlow opens, and which library of CUDA 13 has the same functions.
LIBRARIES = {
    "libcudart.so.12": "libcudart.so.12",
    "libcublas.so.12": "libcublas.so.13",
    "libcublasLt.so.12": "libcublasLt.so.13",
    "libcufft.so.11": "libcufft.so.12",
    "libcusolver.so.11": "libcusolver.so.12",
    "libcusparse.so.12": "libcusparse.so.12",
    "libcudnn.so.9": "libcudnn.so.9",
    "libcupti.so.12": "libcupti.so.13",
    "libnccl.so.2": "libnccl.so.2",
}
# The most telling first.
BENCHMARKS = {
    "first_call": ["--only", "ResNet-20"],
    "meta_gradient": ["--quick"],
    "curvature": ["--quick"],
    "gamma": ["--quick"],
    "select": ["--quick"],
}
IMPORT = """
import tensorflow as tf, keras, prospr_ops as po
from prospr_ops.utils.gpu import gpu_use
print("TensorFlow", tf.__version__, "Keras", keras.__version__, po.build_info()["cuda_architectures"])
print(tf.config.list_physical_devices("GPU"), gpu_use())
with tf.device("GPU:0" if {card} else "CPU:0"):
    x = tf.random.stateless_normal([64, 8, 8, 3], [1, 2])
    kernel = tf.ones([3, 3, 3, 5])
    y = tf.nn.conv2d(x, kernel, 1, "SAME")
    z = tf.linalg.matmul(tf.reshape(y, [64, -1]), tf.ones([320, 7]))
    print(po.ops.dense_curvature(z, tf.ones([2, 64, 3])).device, float(tf.reduce_sum(z)))
"""


def folders() -> list[Path]:
    """Where CUDA's libraries may be: in Python packages, and in the toolkit."""
    packages = [Path(path) / "nvidia" for path in sys.path if Path(path, "nvidia").is_dir()]
    toolkits = Path("/usr/local").glob("cuda*")
    found = [lib for package in packages for lib in sorted(package.glob("**/lib"))]
    return [*found, *(lib for kit in toolkits for lib in (kit / "lib64",) if lib.is_dir())]


def link_libraries(into: Path, places: list[Path]) -> list[str]:
    """Links each library under the name that TensorFlow knows; returns those that are missing."""
    into.mkdir(parents=True, exist_ok=True)
    missing = []
    for name, here in LIBRARIES.items():
        found = next((folder / here for folder in places if (folder / here).exists()), None)
        if found is None:
            missing.append(here)
            continue
        (into / name).unlink(missing_ok=True)
        (into / name).symlink_to(found.resolve())
    return missing


def main() -> int:
    """Takes all steps."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--parts", type=Path, required=True, help="folder of the parts")
    parser.add_argument("--out", type=Path, default=Path("results-tensorflow"))
    parser.add_argument("--deadline", type=float, default=300, help="seconds in all")
    parser.add_argument(
        "--only",
        nargs="+",
        metavar="WORD",
        help="the import, and steps with one of these in their names",
    )
    parser.add_argument("--rehearse", action="store_true", help="without a card")
    options = parser.parse_args()
    environment = card_environment(emulate=options.rehearse)
    if environment is None:
        print("nvidia-smi names no GPU; --rehearse runs without one", file=sys.stderr)
        return 2
    out = options.out.resolve()
    only = ["join", "import", *options.only] if options.only else []
    session = Session(out, options.deadline, environment, only)
    packages, libraries = out / "packages", out / "libraries"
    joined = session.step(
        "join the parts", [sys.executable, HERE / "unpack.py", options.parts, packages], limit=90
    )
    sys.path.insert(0, str(packages))
    places = folders()
    missing = link_libraries(libraries, places)
    known = {
        "PYTHONPATH": os.pathsep.join([str(packages), str(compiling.ROOT)]),
        "LD_LIBRARY_PATH": os.pathsep.join(map(str, [libraries, *places])),
        "TF_FORCE_GPU_ALLOW_GROWTH": "true",
        # TensorFlow's own kernels are compiled from PTX on first use, and kept here.
        "CUDA_CACHE_PATH": str(out / "cuda-cache"),
        "CUDA_CACHE_MAXSIZE": str(4 << 30),
        "XLA_FLAGS": "--xla_gpu_cuda_data_dir=/usr/local/cuda",
    }
    steps = [("import", ["-c", IMPORT.format(card=not options.rehearse)], 90)]
    tests = ["-m", "pytest", "-q", "-m", "gpu", "-p", "no:cacheprovider", "tests/ops/test_gpu.py"]
    steps.append(("pytest -m gpu", tests, 150))
    for name, shortened in () if options.rehearse else BENCHMARKS.items():
        command = ["-m", "benchmarks", name, *shortened, "--device", "gpu", "--out", out / name]
        steps.append((f"benchmark {name}", command, 100))
    for name, arguments, limit in steps:
        if joined:
            session.step(
                name, [sys.executable, *arguments], limit=limit, environment=known,
                folder=compiling.ROOT,
            )  # fmt: skip
        else:
            session.skip(name, "the parts were not joined")
    if missing:
        print(f"not on this machine: {', '.join(missing)}")
    return session.finish()


if __name__ == "__main__":
    sys.exit(main())
