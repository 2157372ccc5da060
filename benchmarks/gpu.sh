#!/usr/bin/env bash
# The GPU's figures of docs/performance.md in less than 9 minutes: the kernels against the reference, then training and
# inference beside timm's. Results: benchmarks/results/<gpu>-<date>.json. Nothing else may run meanwhile.
set -uo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}
name=$($python -c 'import torch; print(torch.cuda.get_device_name().lower().replace(" ", "-"))') || exit 1
out=${OUT:-benchmarks/results}/$name-$(date +%F).json
work=$(mktemp -d)
models="transxnet_t transnext_tiny conv2former_t hat_net_tiny van_b1"
limit=500  # seconds after which nothing new is begun

bench() {  # NAME OPTIONS…: one comparison, cut off at the limit
  left=$((limit - SECONDS))
  if [ $left -lt 10 ]; then echo "left out for lack of time: $1"; return; fi
  timeout $left $python -m glocal bench "${@:2}" --device cuda --json "$work/$1.json" || echo "not whole: $1"
}

$python benchmarks/gpu_kernels.py --json "$work/kernels.json"
bench train $models --mode train --precision bf16 --batch-sizes 128 --rounds 10
bench infer $models --fuse --precision bf16 --batch-sizes 1,128 --rounds 20
bench growth $models transnext_tiny,pool_size=7 --precision bf16 --batch-sizes 8 --sizes 224,384,512,768,1024 --rounds 5
GLOCAL_OPS=reference bench train-reference $models --mode train --precision bf16 --batch-sizes 64 --rounds 5
for model in van_b1 conv2former_t hat_net_tiny transxnet_t transnext_tiny; do  # compiling takes a minute or so each
  bench "train-compiled-$model" $model --mode train --precision bf16 --batch-sizes 128 --rounds 10 --compile
done

$python - "$work" "$out" <<'PYTHON'
import json, sys
from pathlib import Path

parts = {path.stem: json.loads(path.read_text()) for path in sorted(Path(sys.argv[1]).glob("*.json"))}
Path(sys.argv[2]).parent.mkdir(parents=True, exist_ok=True)
Path(sys.argv[2]).write_text(json.dumps(parts, indent=1) + "\n")
PYTHON
echo "$out after $SECONDS s"
