"""Which inputs the first layer still sees."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from prospr_ops.reporting.figures.style import INK, new_figure, set_title, wrapped

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from prospr_ops.pruning.result import PruneResult

_SMALLEST_SIDE = 16  # of the square image that a vector may be read as
_MOST_KERNELS = 144


def first_layer_maps(result: PruneResult) -> tuple[str, npt.NDArray[Any]] | None:
    """The first layer's mask as an image.

    Returns:
        A sentence on what the image shows, and the image; None if an image would be meaningless.
        For a Dense layer on images, or on vectors as long as a square image of at least 16 × 16
        pixels, it is the number of weights kept at each pixel, `[height, width]`. For a
        two-dimensional convolution it is the kernels side by side, separated by lines of −1: the
        number of input channels whose weight is kept at each position.
    """
    path, mask = next(iter(result.masks.items()))
    if mask.ndim == 2:
        shape = _image_shape(result.input_shape, mask.shape[0])
        if shape is None:
            return None
        counts = mask.sum(axis=1).reshape(shape)
        return "weights kept at each pixel", counts.sum(axis=2)
    if mask.ndim == 4 and path.endswith("kernel") and max(mask.shape[:2]) > 1:
        shown = mask.sum(axis=2)[..., :_MOST_KERNELS]
        return f"input channels kept, of {mask.shape[2]}", _montage(shown)
    return None


def first_layer_figure(maps: Mapping[str, npt.NDArray[Any]], meaning: str, layer: str) -> Figure:
    """Draws the images of `first_layer_maps` side by side, on one colour scale.

    Args:
        maps: Image that `first_layer_maps` returned, by label.
        meaning: What the numbers in the images are.
        layer: Path of the first layer's mask.

    Raises:
        ImportError: matplotlib is not installed.
    """
    columns = math.ceil(math.sqrt(len(maps)))
    rows = math.ceil(len(maps) / columns)
    figure = new_figure(figsize=(1.4 + 3.1 * columns, 0.7 + 3.1 * rows))
    set_title(figure, layer)
    draw_maps(figure, maps, meaning)
    return figure


def draw_maps(
    figure: Any,
    maps: Mapping[str, npt.NDArray[Any]],
    meaning: str = "weights kept at each pixel",
) -> None:
    """Draws images side by side into a figure or subfigure, on one colour scale."""
    columns = math.ceil(math.sqrt(len(maps)))
    rows = math.ceil(len(maps) / columns)
    grid = figure.subplots(rows, columns, squeeze=False)
    brightest = max(1, *(counts.max() for counts in maps.values()))
    for axes in grid.flat:
        axes.set_axis_off()
    for axes, (label, counts) in zip(grid.flat, maps.items(), strict=False):
        seen = np.ma.masked_less(counts, 0)
        image = axes.imshow(seen, cmap="magma", vmin=0, vmax=brightest)
        axes.set_title(wrapped(label), size=min(11, 24 / columns), color=INK)
    bar = figure.colorbar(image, ax=grid, shrink=0.85, aspect=30)
    bar.ax.yaxis.get_major_locator().set_params(integer=True)
    bar.outline.set_visible(False)
    bar.set_label(meaning, color=INK)


def _image_shape(input_shape: tuple[int, ...] | None, features: int) -> tuple[int, int, int] | None:
    """Height, width and channels of the images that flatten to this many features."""
    if input_shape is not None and math.prod(input_shape) != features:
        return None
    if input_shape is not None and len(input_shape) in (2, 3) and min(input_shape[:2]) > 1:
        height, width, *channels = input_shape
        return height, width, math.prod(channels)
    side = math.isqrt(features)
    if side * side == features and side >= _SMALLEST_SIDE and len(input_shape or (0,)) == 1:
        return side, side, 1
    return None


def _montage(images: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """`[height, width, n]` as one image, each `[height, width]` framed by −1."""
    height, width, count = images.shape
    columns = math.ceil(math.sqrt(count))
    rows = math.ceil(count / columns)
    sheet = np.full((rows * (height + 1) + 1, columns * (width + 1) + 1), -1)
    for number in range(count):
        row, column = divmod(number, columns)
        top, left = row * (height + 1) + 1, column * (width + 1) + 1
        sheet[top : top + height, left : left + width] = images[..., number]
    return sheet
