"""Scoring, selection and masks."""
