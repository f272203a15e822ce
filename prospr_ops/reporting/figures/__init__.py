"""Figures of what a run has to show; matplotlib is an optional dependency.

Every function returns a figure to be saved with `savefig`; no window is opened and no global state is
touched.
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
