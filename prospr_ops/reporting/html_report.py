"""A report on pruning results: one self-contained HTML file."""

from __future__ import annotations

import base64
import html
import io
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from prospr_ops.methods import METHODS
from prospr_ops.pruning.arrays import Masks
from prospr_ops.pruning.result import PruneResult
from prospr_ops.pruning.selection import select
from prospr_ops.reporting import figures
from prospr_ops.reporting.agreement import overlap, spearman
from prospr_ops.reporting.settings_table import result_labels, settings_rows
from prospr_ops.utils.build import build_info
from prospr_ops.utils.files import replacing
from prospr_ops.utils.tables import Rows, html_table, percent

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["report"]

_DPI = 144
_CSS_PIXELS = 96  # per inch on the page

_PAGE = """\
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
:root {{ color-scheme: light dark; --ink: #22272e; --paper: #ffffff; --line: #d8dee4; --soft: #59636e; }}
@media (prefers-color-scheme: dark) {{
  :root {{ --ink: #e6edf3; --paper: #14181d; --line: #39414a; --soft: #9aa5b1; }}
}}
body {{ margin: 0 auto; max-width: 76rem; padding: 1.5rem; color: var(--ink);
  background: var(--paper); font: 15px/1.5 system-ui, sans-serif; }}
h1 {{ font-size: 1.6rem; margin: 0; }}
h2 {{ font-size: 1.2rem; margin: 2.2rem 0 .4rem; border-bottom: 1px solid var(--line); }}
p {{ margin: .4rem 0; max-width: 52rem; color: var(--soft); }}
.figures {{ display: flex; flex-wrap: wrap; gap: 1rem; align-items: flex-start; }}
img {{ max-width: 100%; height: auto; background: #ffffff; border-radius: 6px; }}
.wide {{ overflow-x: auto; }}
table {{ border-collapse: collapse; margin: .6rem 0; font-variant-numeric: tabular-nums; }}
caption {{ font-weight: 600; padding: .3rem .6rem; }}
th, td {{ padding: .2rem .6rem; border-bottom: 1px solid var(--line); }}
tbody th {{ font-weight: 400; }}
tfoot th, tfoot td {{ font-weight: 600; border-bottom: 0; }}
summary {{ cursor: pointer; }}
</style>
</head>
<body>
<h1>{title}</h1>
<p>{subtitle}</p>
{body}
</body>
</html>
"""


class _Picture(NamedTuple):
    name: str
    description: str
    width: int  # in CSS pixels
    png: bytes


class _Section(NamedTuple):
    heading: str
    text: str
    pictures: Sequence[_Picture] = ()
    tables: Sequence[Rows] = ()


def report(
    results: PruneResult | Sequence[PruneResult],
    path: str | os.PathLike[str],
    *,
    png_folder: str | os.PathLike[str] | None = None,
) -> list[Path]:
    """Writes a report on one or several results: one self-contained HTML file.

    The report shows the settings; the density by layer and a table of the layers; histograms of the
    scores with the threshold; the first layer's masks if they form an image; the losses of the
    prospect steps; and for several results how far they agree: the fraction of the weights kept by
    one that another keeps too, and Spearman's rank correlation of their scores.

    Args:
        results: Results of `prune` or `PruneResult.load`. Several must be of one architecture, with
            the same arrays in the same order; names may differ.
        path: HTML file to write; an existing one is replaced.
        png_folder: Folder for the figures as PNG files, created if missing; None for no such files.

    Returns:
        The files that were written, `path` first.

    Raises:
        ImportError: matplotlib is not installed (`pip install 'prospr_ops[plots]'`).
        OSError: A file cannot be written; each is written whole or not at all.
        TypeError: `results` holds something that is not a `PruneResult`.
        ValueError: `results` is empty, a result has no scores, or the results are of different
            models.

    Examples:
        >>> import prospr_ops as po
        >>> model = po.models.lenet_300_100(input_shape=(8,), classes=3)
        >>> result = po.prune(model, None, sparsity=0.9, method="magnitude", verbose=0)
        >>> [path.name for path in po.report(result, "report.html")]
        ['report.html']
    """
    results = _checked(results)
    labels = result_labels(results)
    sections = list(_sections(results, labels))
    written = [Path(path)]
    with replacing(written[0]) as unfinished:
        unfinished.write_text(_page(results, labels, sections), "utf-8")
    if png_folder is not None:
        folder = Path(png_folder)
        folder.mkdir(parents=True, exist_ok=True)
        for picture in (picture for section in sections for picture in section.pictures):
            written.append(folder / f"{picture.name}.png")
            with replacing(written[-1]) as unfinished:
                unfinished.write_bytes(picture.png)
    return written


def _checked(results: PruneResult | Sequence[PruneResult]) -> list[PruneResult]:
    checked = [results] if isinstance(results, PruneResult) else list(results)
    if not checked:
        msg = "report needs at least one result"
        raise ValueError(msg)
    for number, result in enumerate(checked, start=1):
        if not isinstance(result, PruneResult):
            msg = f"results must be of PruneResult; number {number} is {type(result).__name__}"
            raise TypeError(msg)
        if not result.scores or not result.weights:
            msg = f"result {number} ({result!r}) has no {'scores' if result.weights else 'masks'}"
            raise ValueError(msg)
        for path, values in result.scores.items():
            if not np.issubdtype(values.dtype, np.floating) or np.isnan(values).any():
                msg = f"the scores of {path} in result {number} ({result!r}) are not all numbers"
                raise ValueError(msg)
        if not _by_channel(result) and _shapes(result.scores) != _shapes(dict(result.masks)):
            msg = f"the scores and masks of result {number} ({result!r}) differ in shape"
            raise ValueError(msg)
        first = checked[0]
        for what in ("masks", "scores"):
            found, expected = _shapes(getattr(result, what)), _shapes(getattr(first, what))
            if found != expected:
                msg = (
                    f"the results are of different models: number {number} has {what} of the "
                    f"shapes {found}, the first has {expected}"
                )
                raise ValueError(msg)
    return checked


def _shapes(arrays: dict[str, np.ndarray]) -> list[tuple[int, ...]]:
    return [values.shape for values in arrays.values()]


def _by_channel(result: PruneResult) -> bool:
    return result.settings.get("structure") == "channel"


def _signed(result: PruneResult) -> bool:
    """Whether the scores are signed numbers instead of logarithms."""
    method = METHODS.get(result.settings["method"])
    return method is not None and method.signed


def _kept_scores(result: PruneResult) -> Masks:
    """Which of the scores belong to kept weights or channels."""
    if not _by_channel(result):
        return dict(result.masks)
    if result.pruned_groups:
        return {
            path: ~np.isin(np.arange(values.size), result.pruned_groups.get(path, []))
            for path, values in result.scores.items()
        }
    settings = result.settings  # of a file of 0.1.0
    return select(
        result.scores,
        result.sparsity,
        settings.get("scope", "global"),
        min_keep=settings.get("min_keep", 0),
    )


def _sections(results: list[PruneResult], labels: list[str]) -> Iterator[_Section]:
    by_label = dict(zip(labels, results, strict=True))
    yield _Section("Settings", "", tables=[settings_rows(results, labels)])
    yield _Section(
        "Layers",
        "FLOPs: two for each multiply-add with a weight of a kernel, for one sample; all weights → "
        "those that are kept. A dense kernel saves them only once whole channels are removed.",
        [_picture("density", "Density by layer", figures.density_figure(by_label))],
        [result.rows() for result in results],
    )
    yield _Section(
        "Scores",
        "Each histogram has its own height. The threshold is the largest score that was pruned; the "
        f"least hundredth of a layer's scores may lie left of the axis.{_of_groups(results)}",
        [
            _picture(
                f"scores_{_slug(label)}",
                f"Histograms of the scores of {label} by layer",
                figures.scores_figure(result, _kept_scores(result), label, signed=_signed(result)),
            )
            for label, result in by_label.items()
        ],
    )
    yield from _first_layer(by_label)
    losses = {label: result.losses for label, result in by_label.items() if len(result.losses) > 1}
    if losses:
        picture = _picture("losses", "Loss by step", figures.losses_figure(losses))
        yield _Section("Prospect", "The last one is of the final batch.", [picture])
    if len(results) > 1:
        yield _agreement(results, labels)


def _of_groups(results: list[PruneResult]) -> str:
    if not any(map(_by_channel, results)):
        return ""
    return " A score is that of a group of channels, under the first kernel that makes it."


def _first_layer(results: dict[str, PruneResult]) -> Iterator[_Section]:
    drawn = {label: figures.first_layer_maps(result) for label, result in results.items()}
    maps = {label: found[1] for label, found in drawn.items() if found is not None}
    if not maps:
        return
    meaning = next(found[0] for found in drawn.values() if found is not None)
    layer = next(iter(next(iter(results.values())).masks))
    figure = figures.first_layer_figure(maps, meaning, layer)
    picture = _picture("first_layer", f"{layer}: {meaning}", figure)
    yield _Section("First layer", f"{layer}: {meaning}.", [picture])


def _agreement(results: list[PruneResult], labels: list[str]) -> _Section:
    overlaps = overlap([dict(result.masks) for result in results])
    ranks = spearman([result.scores for result in results])
    densities = ", ".join(
        f"{percent(result.kept / result.weights)} ({label})"
        for label, result in zip(labels, results, strict=True)
    )

    def rows(title: str, values: np.ndarray) -> Rows:
        body = [
            [label, *(f"{value:.4f}".replace("-0.0000", "0.0000") for value in line)]
            for label, line in zip(labels, values, strict=True)
        ]
        return Rows(title, ["", *labels], body)

    return _Section(
        "Agreement",
        f"By chance alone, the share in common is what the column keeps of all: {densities}.",
        [
            _picture(
                "agreement",
                "Heat maps of the numbers below",
                figures.agreement_figure(labels, overlaps, ranks),
            )
        ],
        [
            rows(
                "Of the weights that the row keeps, the share that the column keeps too", overlaps
            ),
            rows("Spearman's rank correlation of all scores", ranks),
        ],
    )


def _picture(name: str, description: str, figure: Figure) -> _Picture:
    buffer = io.BytesIO()
    # Without matplotlib's version in the metadata, equal results give equal files.
    figure.savefig(buffer, format="png", dpi=_DPI, metadata={"Software": None})
    width = round(figure.get_figwidth() * _CSS_PIXELS)
    return _Picture(name, description, width, buffer.getvalue())


def _slug(label: str) -> str:
    return re.sub(r"[^a-z0-9]+", "_", label.lower()).strip("_")


def _page(results: list[PruneResult], labels: list[str], sections: list[_Section]) -> str:
    first = results[0]
    title = f"{', '.join(labels)}: {percent(first.sparsity)} sparsity"
    if len({result.sparsity for result in results}) > 1:
        title = ", ".join(
            f"{label} {percent(result.sparsity)}"
            for label, result in zip(labels, results, strict=True)
        )
    version = build_info()["version"]
    return _PAGE.format(
        title=html.escape(title),
        subtitle=html.escape(
            f"{len(first.masks)} arrays of {first.weights:,} weights; prospr_ops {version}"
        ),
        body="\n".join(map(_section_html, sections)),
    )


def _section_html(section: _Section) -> str:
    parts = [f"<section>\n<h2>{html.escape(section.heading)}</h2>"]
    if section.text:
        parts.append(f"<p>{html.escape(section.text)}</p>")
    images = [
        f'<img alt="{html.escape(description)}" width="{width}" '
        f'src="data:image/png;base64,{base64.b64encode(png).decode("ascii")}">'
        for _, description, width, png in section.pictures
    ]
    if images:
        parts.append("\n".join(['<div class="figures">', *images, "</div>"]))
    for rows in section.tables:
        parts.append(f'<div class="wide">\n{html_table(rows)}\n</div>')
    return "\n".join([*parts, "</section>"])
