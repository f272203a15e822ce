"""Prune, score, select and apply masks."""
