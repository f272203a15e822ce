"""Whole channels: which go together, and their scores and masks."""
