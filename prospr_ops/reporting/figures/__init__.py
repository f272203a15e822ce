"""Figures of the results of runs; matplotlib is an optional dependency.

Every function returns a figure for `savefig`; it opens no window and changes no global state.
"""

from prospr_ops.reporting.figures.accuracy import accuracy_figure
from prospr_ops.reporting.figures.comparison import agreement_figure, losses_figure
from prospr_ops.reporting.figures.density import density_figure
from prospr_ops.reporting.figures.first_layer import first_layer_figure, first_layer_maps
from prospr_ops.reporting.figures.scores import scores_figure

__all__ = [
    "accuracy_figure",
    "agreement_figure",
    "density_figure",
    "first_layer_figure",
    "first_layer_maps",
    "losses_figure",
    "scores_figure",
]
