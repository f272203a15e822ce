"""Whole channels: their dependency groups, scores and masks."""
