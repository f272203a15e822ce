#!/usr/bin/env bash
# Builds the kernels for the card of this machine, tests, times and compares them: see driver.py.
#   ./run.sh [--out FOLDER] [--deadline SECONDS] [--emulate]
here=$(cd "$(dirname "$0")" && pwd)
exec "${PYTHON:-python3}" "$here/tools/gpu/driver.py" "$@"
