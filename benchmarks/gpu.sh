#!/usr/bin/env bash
# The GPU's figures of docs/performance.md in less than 9 minutes: the kernels against the reference, then training and
# inference beside timm's. Results: benchmarks/results/<gpu>-<date>.json. Nothing else may run meanwhile.
cd "$(dirname "$0")/.." || exit 1
PYTHONPATH="$PWD/src:$PWD/benchmarks${PYTHONPATH:+:$PYTHONPATH}" exec "${PYTHON:-python3}" benchmarks/gpu.py "$@"
