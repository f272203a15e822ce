"""Checks, files, tables and facts of the build; imports nothing of ours but the native kernels."""
