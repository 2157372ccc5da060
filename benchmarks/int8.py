"""What integer arithmetic costs in accuracy and brings in speed, for trained classifiers, in OpenVINO.

python benchmarks/int8.py [--runs RUN …] [--untrained NAME …] --data DATA [--images 2000] [--json FILE]

Every run folder is exported as fp32 and as int8, calibrated on 300 training images of DATA. Both files classify the
same images of its validation part, one at a time and in turns; the medians count. Untrained models, made anew, are for
the times alone.
"""

import argparse
import json
import statistics
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import timm
import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import nn

from glocal.bench.timing import machine
from glocal.data.open import open_for_evaluation
from glocal.data.preprocessing import Preprocessing
from glocal.deploy import export, runtimes
from glocal.deploy.calibration import calibration_images
from glocal.tasks.loading import load_trained


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", nargs="*", default=[])
    parser.add_argument("--untrained", nargs="*", default=[])
    parser.add_argument("--data", required=True)
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    classifiers = [load_trained(run) for run in args.runs]
    rows = [
        compare(each.name, each.model, Preprocessing(**each.preprocessing), args.data, args.images)
        for each in classifiers
    ]
    for name in args.untrained:
        torch.manual_seed(0)
        model = timm.create_model(name).eval()
        row = compare(name, model, Preprocessing.of_model(model), args.data, args.images)
        rows.append(row | {"top1": {kind: None for kind in row["top1"]}})
    shown = Table("model", "fp32 top-1 %", "int8 top-1 %", "fp32 ms", "int8 ms", "MB", "MB")
    for row in rows:
        values = [row[name][kind] for name in ("top1", "ms", "megabytes") for kind in ("fp32", "int8")]
        shown.add_row(row["model"], *("" if value is None else f"{value:.2f}" for value in values))
    Console(width=100).print(shown)
    if args.json:
        result = {"machine": machine(torch.device("cpu"), None), "data": args.data, "rows": rows}
        args.json.write_text(json.dumps(result, indent=1) + "\n")


def compare(name: str, model: nn.Module, preprocessing: Preprocessing, data: str, count: int) -> dict:
    source, split = open_for_evaluation(data)
    samples, transform = source.splits[split], preprocessing.transform()
    places = np.random.RandomState(0).permutation(len(samples))[:count]
    labels = np.array([samples.labels[place] for place in places])
    options = {"dynamic": (), "input_size": preprocessing.input_size}
    calibration = [image[None] for image in calibration_images(data, 300, preprocessing)]
    seconds, right, size = ({"fp32": [], "int8": []} for _ in range(3))
    with TemporaryDirectory() as folder:
        run_file = {}
        for kind, more in (("fp32", {}), ("int8", {"precision": "int8", "calibration": calibration})):
            result = export(model, Path(folder) / f"{kind}.xml", **options, **more)
            size[kind] = result.megabytes
            run_file[kind] = runtimes.load(result.path)
        for place, label in zip(track(places, name), labels, strict=True):
            image = transform(samples.load(place)).numpy()[None]
            for kind, function in run_file.items():
                start = time.perf_counter()
                logits = function(image)[0]
                seconds[kind].append(time.perf_counter() - start)
                right[kind].append(logits.argmax() == label)
    return {
        "model": name,
        "images": len(places),
        "top1": {kind: 100 * float(np.mean(values)) for kind, values in right.items()},
        "ms": {kind: 1000 * statistics.median(values) for kind, values in seconds.items()},
        "megabytes": size,
    }


if __name__ == "__main__":
    main()
