#!/usr/bin/env bash
# Runs pytest -m gpu and the benchmarks in the TensorFlow that came in parts: see with_tensorflow.py.
#   ./run_tensorflow.sh --parts FOLDER [--out FOLDER] [--deadline SECONDS] [--rehearse]
here=$(cd "$(dirname "$0")" && pwd)
exec "${PYTHON:-python3}" "$here/tools/gpu/with_tensorflow.py" "$@"
