#!/usr/bin/env bash
# The CPU's figures of docs/performance.md: training and inference beside timm's, and growth with the image's size.
# Results: benchmarks/results/cpu-<date>/*.json. Nothing else may run meanwhile.
set -uo pipefail
cd "$(dirname "$0")/.." || exit 1
export PYTHONPATH="$PWD/src${PYTHONPATH:+:$PYTHONPATH}"
out=${1:-benchmarks/results/cpu-$(date +%F)}
mkdir -p "$out"
models="transxnet_t transnext_tiny conv2former_t hat_net_tiny van_b1"

bench() { "${PYTHON:-python3}" -m glocal bench "${@:2}" --device cpu --json "$out/$1.json" || echo "not whole: $1"; }

bench train $models --mode train --rounds 7
bench infer $models swin_tiny_patch4_window7_224 --fuse --batch-sizes 1,8 --rounds 9
bench growth $models transcnn_tiny transnext_tiny,pool_size=7 --fuse --batch-sizes 1 --sizes 224,448,640,1024 --rounds 5
