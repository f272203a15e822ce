"""Makes `python -m prospr_ops` the same as `prospr`."""

from __future__ import annotations

import sys

from prospr_ops.cli import main

sys.exit(main())
