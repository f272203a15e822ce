"""Runs the command `prospr` as `python -m prospr_ops`."""

from __future__ import annotations

import sys

from prospr_ops.cli import main

sys.exit(main())
