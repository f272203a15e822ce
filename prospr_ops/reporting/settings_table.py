"""Labels of several results, and the table of their settings side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from typing import Any

from prospr_ops.methods import METHODS, method_label
from prospr_ops.pruning.result import PruneResult
from prospr_ops.utils.settings import Settings
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
    """Tabulates the settings that the methods use, one column per result."""
    used = [_used(result) for result in results]
    names = dict.fromkeys(name for settings in used for name in settings)
    body = [[name, *(_setting(settings.get(name, UNKNOWN)) for settings in used)] for name in names]
    body.append(["weights kept", *(f"{r.kept:,} of {r.weights:,}" for r in results)])
    body.append(["loss after the steps", *(_last_loss(result) for result in results)])
    body.append(["seconds", *(f"{result.seconds:.2f}" for result in results)])
    return Rows("Settings", ["", *labels], body)


def _used(result: PruneResult) -> dict[str, Any]:
    """The settings of a result without those that change nothing of its method's scores."""
    method = METHODS.get(result.settings["method"])
    unused = {f.name for f in fields(Settings)} - set(method.settings) if method else set()
    return {name: value for name, value in result.settings.items() if name not in unused}


def _setting(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _last_loss(result: PruneResult) -> str:
    return f"{result.losses[-1]:.4g}" if result.losses else UNKNOWN
