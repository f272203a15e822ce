"""Compares pruning methods by the accuracy of the networks that they leave, trained over many seeds.

`compare` runs a grid of cells (`cells`), each of which prunes and trains one network (`worker`,
`training`; by its kept weights alone, `sparse_network`) and writes one line into a journal
(`journal`), from which `results` makes the table and the figure.
"""

from prospr_ops.cli.comparison.cells import Cell, Contender, Pruning, grid
from prospr_ops.cli.comparison.results import comparison_figure, comparison_table
from prospr_ops.cli.comparison.runner import compare, finished
from prospr_ops.cli.comparison.training import Training

__all__ = [
    "Cell",
    "Contender",
    "Pruning",
    "Training",
    "compare",
    "comparison_figure",
    "comparison_table",
    "finished",
    "grid",
]
