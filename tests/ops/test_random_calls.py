"""Every op, called with thousands of random arguments: clean errors only, and never a crash."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from prospr_ops import ops

CALLS = 400  # of each op


def test_wrong_arguments_are_refused_cleanly():
    program = Path(__file__).parents[1] / "support" / "random_calls.py"
    command = [sys.executable, str(program), str(CALLS)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, f"crashed; the last calls were {result.stderr[-4000:]}"
    outcomes = json.loads(result.stdout)
    assert outcomes.keys() == set(ops.__all__)
    for op, counts in outcomes.items():
        assert counts.keys() == {"accepted", "refused"}, (op, counts)
        assert counts["accepted"] > CALLS / 20, op
        assert counts["refused"] > CALLS / 2, op
