"""Benchmarks: one file a question. Run `python -m benchmarks` from the repository root.

Each prints a table of both sides of one run, after checking that they agree, and writes the same
as JSON and as a plot. Its `run` returns the rows of the summary that comes last.
"""
