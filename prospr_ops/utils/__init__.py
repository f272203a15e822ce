"""Checks, files, tables and build information; imports only the native kernels of this package."""
