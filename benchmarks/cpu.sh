#!/usr/bin/env bash
# The CPU's figures of docs/performance.md: training and inference beside timm's, and growth with the image's size.
# Results: benchmarks/results/cpu-<date>/*.json. About 40 minutes on two cores; nothing else may run meanwhile.
set -euo pipefail
cd "$(dirname "$0")/.."
out=${1:-benchmarks/results/cpu-$(date +%F)}
glocal=${GLOCAL:-glocal}
mkdir -p "$out"
models="transxnet_t transnext_tiny conv2former_t hat_net_tiny van_b1"

$glocal bench $models --mode train --device cpu --rounds 7 --json "$out/train.json"
$glocal bench $models swin_tiny_patch4_window7_224 --fuse --batch-sizes 1,8 --device cpu --rounds 15 --json "$out/infer.json"
$glocal bench $models transnext_tiny,pool_size=7 --fuse --batch-sizes 1 --sizes 224,320,448,640,768,1024 \
  --device cpu --rounds 3 --json "$out/growth.json"
