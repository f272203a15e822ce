"""Make the sample of MNIST that ships in prospr_ops/datasets/mnist from the full data set.

    python tools/make_mnist_sample.py FOLDER_WITH_THE_FOUR_IDX_FILES

The same number of digits of every class is drawn with a fixed seed and kept in the original order.
"""

from __future__ import annotations

import argparse
import gzip
from pathlib import Path

import numpy as np

from prospr_ops.data import datasets as data

SEED = 0
TRAIN_PER_CLASS = 600
TEST_PER_CLASS = 200


def stratified(labels: np.ndarray, per_class: int, rng: np.random.Generator) -> np.ndarray:
    """Indices of `per_class` samples of every class, ascending."""
    chosen = [
        rng.choice(np.flatnonzero(labels == digit), per_class, replace=False)
        for digit in np.unique(labels)
    ]
    return np.sort(np.concatenate(chosen))


def write_idx(file: Path, array: np.ndarray) -> None:
    """Writes uint8 `array` as gzip-compressed IDX; the same bytes for the same array."""
    header = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, dtype=">u4").tobytes()
    # No time stamp and no name inside, so that the file can be reproduced.
    file.write_bytes(gzip.compress(header + array.tobytes(), compresslevel=9, mtime=0))
    print(f"{file}: {[*array.shape]}, {file.stat().st_size:,} bytes")


def main() -> None:
    """Reads the full data set, draws the sample, writes it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="folder with MNIST's IDX files or mnist.npz")
    parser.add_argument("--out", type=Path, default=data._MNIST_SAMPLE, help="default: %(default)s")
    arguments = parser.parse_args()

    x_train, y_train, x_test, y_test = data._read_folder(arguments.folder)
    rng = np.random.default_rng(SEED)
    train = stratified(y_train, TRAIN_PER_CLASS, rng)
    test = stratified(y_test, TEST_PER_CLASS, rng)
    arguments.out.mkdir(parents=True, exist_ok=True)
    for name, array in {
        "train-images-idx3": x_train[train],
        "train-labels-idx1": y_train[train],
        "t10k-images-idx3": x_test[test],
        "t10k-labels-idx1": y_test[test],
    }.items():
        write_idx(arguments.out / f"{name}-ubyte.gz", array)


if __name__ == "__main__":
    main()
