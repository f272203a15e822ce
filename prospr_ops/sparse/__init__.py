"""Layers and models that compute with the kept weights alone."""
