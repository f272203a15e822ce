"""What the number of threads changes in the scores, and what it does not: docs/long_runs.md."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from thread_counts import RUNS

Found = dict[str, dict[str, np.ndarray]]


def _scores(folder: Path, intra: int, inter: int, mode: str, *networks: str) -> Found:
    """All scores of each run, end to end, by network and run."""
    script, out = Path(__file__).parents[1] / "support" / "thread_counts.py", folder / "scores.npz"
    arguments = [str(intra), str(inter), mode, str(out), *networks]
    run = subprocess.run(
        [sys.executable, str(script), *arguments], capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    arrays: dict[str, list[np.ndarray]] = {}
    with np.load(out) as archive:
        for name in archive.files:
            arrays.setdefault(name.rpartition(": ")[0], []).append(archive[name].ravel())
    found: Found = {}
    for name, parts in arrays.items():
        network, _, method = name.partition(": ")
        found.setdefault(network, {})[method] = np.concatenate(parts)
    return found


def _assert_same_bits(one: Found, other: Found) -> None:
    assert one.keys() == other.keys()
    for network, runs in one.items():
        assert runs.keys() == other[network].keys() == RUNS.keys()
        differing = [run for run in runs if runs[run].tobytes() != other[network][run].tobytes()]
        assert not differing, network


def _best_tenth(scores: np.ndarray) -> set[int]:
    return set(np.argsort(-scores, kind="stable")[: scores.size // 10])


def test_a_network_of_dense_layers_has_the_same_bits_for_any_number_of_threads(tmp_path):
    one = _scores(tmp_path, 1, 1, "plain", "LeNet-300-100")
    _assert_same_bits(one, _scores(tmp_path, 4, 2, "plain", "LeNet-300-100"))


@pytest.mark.slow
def test_threads_change_convolutional_scores_by_rounding_and_nothing_else_does(tmp_path):
    two = _scores(tmp_path, 2, 1, "plain")
    for inter in (1, 2, 4):
        _assert_same_bits(two, _scores(tmp_path, 2, inter, "plain"))
    deterministic = [_scores(tmp_path, 2, 2, "deterministic") for _ in range(2)]
    _assert_same_bits(*deterministic)
    for intra in (1, 4):
        other = _scores(tmp_path, intra, intra, "plain")
        dense = "LeNet-300-100"
        _assert_same_bits({dense: two[dense]}, {dense: other[dense]})
        for network, runs in two.items():
            for run, scores in runs.items():
                best = _best_tenth(scores)
                assert len(best & _best_tenth(other[network][run])) >= 0.999 * len(best) - 1
