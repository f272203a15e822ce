from __future__ import annotations

import numpy as np
import pytest

from prospr_ops.reporting.agreement import overlap, spearman


def test_overlap_by_hand():
    a = {"k": np.array([[True, True], [False, False]]), "l": np.array([True, True])}
    b = {"other": np.array([[True, False], [True, False]]), "l": np.array([False, False])}
    np.testing.assert_array_equal(overlap([a, b]), [[1, 1 / 4], [1 / 2, 1]])


def test_overlap_of_none():
    none, some = {"k": np.zeros(3, bool)}, {"k": np.array([True, False, False])}
    np.testing.assert_array_equal(overlap([none, some]), [[np.nan, np.nan], [0, 1]])


def test_chance_keeps_as_much_in_common_as_it_keeps():
    random = np.random.default_rng(0)
    a, b = ({"k": random.random(100_000) < density} for density in (0.5, 0.1))
    np.testing.assert_allclose(overlap([a, b]), [[1, 0.1], [0.5, 1]], atol=0.02)


def _naive_ranks(values):
    return [
        np.count_nonzero(values < value) + (np.count_nonzero(values == value) + 1) / 2
        for value in values
    ]


def test_spearman_is_the_correlation_of_ranks():
    random = np.random.default_rng(1)
    # Few values, so that many are tied, and −inf among them.
    flat = random.integers(0, 9, (3, 60)).astype(float)
    flat[flat == 0] = -np.inf
    scores = [{"k": values[:40].reshape(4, 10), "l": values[40:]} for values in flat]
    expected = np.corrcoef([_naive_ranks(values) for values in flat])
    np.testing.assert_allclose(spearman(scores), expected, atol=1e-12)


def test_spearman_sees_ranks_alone():
    scores = {"k": np.random.default_rng(2).normal(size=50)}
    others = [{"k": np.exp(scores["k"])}, {"k": -(scores["k"] ** 3)}]
    np.testing.assert_allclose(spearman([scores, *others])[0], [1, 1, -1])


@pytest.mark.parametrize("count", [1, 2])
def test_equal_scores_have_no_correlation(count):
    assert np.isnan(spearman([{"k": np.ones(5)}] * count)).all()
