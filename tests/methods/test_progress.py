"""What the progress bar says while a method runs."""

from __future__ import annotations

from contextlib import contextmanager

import pytest
from problems import PROBLEMS

import prospr_ops as po
from prospr_ops.pruning import scoring


def _words(monkeypatch, method: str, **options) -> list[str]:
    words: list[str] = []

    @contextmanager
    def recorded(*_):
        yield lambda: None, words.append

    monkeypatch.setattr(scoring, "_progress", recorded)
    problem = PROBLEMS[0]
    (po.prune if "rounds" in options else po.score)(
        problem.model(),
        problem.data(),
        method=method,
        loss=problem.loss,
        batch_size=16,
        **options,
    )
    return words


def test_it_says_which_batch_and_which_way(monkeypatch):
    assert _words(monkeypatch, "exact", steps=2) == [
        *("batch 1", "batch 2", "batch 3", "back over batch 2", "back over batch 1")
    ]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"method": "diagonal"}, ["batch 1", "batch 2", "batch 3"]),
        (
            {"method": "first_order", "microbatch": 8},
            ["tracing, then batch 1", "batch 2", "tracing, then batch 3"],
        ),
    ],
)
def test_it_says_when_tensorflow_traces(options, expected, monkeypatch):
    assert _words(monkeypatch, steps=2, **options) == expected


def test_it_says_which_round(monkeypatch):
    words = _words(monkeypatch, "first_order", steps=1, rounds=2, sparsity=0.5)
    assert words == [f"round {n} of 2, batch {m}" for n in (1, 2) for m in (1, 2)]


def test_the_bar_shows_it(capsys, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setattr("rich._console", None)  # the process's console, made for another stream
    with scoring._progress("exact", 3, "batches") as (advance, say):
        say("back over batch 2")
        advance()
    assert "scoring by exact: back over batch 2" in capsys.readouterr().out
