"""Labels of several results, and the table of their settings side by side."""

from __future__ import annotations

from collections.abc import Sequence

from prospr_ops.methods import method_label
from prospr_ops.pruning.result import PruneResult
from prospr_ops.utils.tables import UNKNOWN, Rows


def result_labels(results: Sequence[PruneResult]) -> list[str]:
    """Labels each result by its method, and where methods are equal by the settings that differ."""
    settings = [result.settings for result in results]
    labels = []
    for number, one in enumerate(settings):
        label = method_label(one["method"])
        alike = [other for other in settings if other["method"] == one["method"]]
        differing = [
            f"{name} {value}"
            for name, value in one.items()
            if any(other.get(name) != value for other in alike)
        ]
        if differing:
            label += f", {', '.join(differing)}"
        elif len(alike) > 1:
            label += f" #{1 + sum(other == one for other in settings[:number])}"
        labels.append(label)
    return labels


def settings_rows(results: Sequence[PruneResult], labels: Sequence[str]) -> Rows:
    """Tabulates the settings of results, one column per result."""
    names = list(dict.fromkeys(name for result in results for name in result.settings))
    body = [
        [name, *(_setting(result.settings.get(name, UNKNOWN)) for result in results)]
        for name in names
    ]
    body.append(["weights kept", *(f"{r.kept:,} of {r.weights:,}" for r in results)])
    body.append(["loss after the steps", *(_last_loss(result) for result in results)])
    body.append(["seconds", *(f"{result.seconds:.2f}" for result in results)])
    return Rows("Settings", ["", *labels], body)


def _setting(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _last_loss(result: PruneResult) -> str:
    return f"{result.losses[-1]:.4g}" if result.losses else UNKNOWN
