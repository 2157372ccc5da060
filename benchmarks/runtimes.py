"""What every family can do in every runtime, and how fast: the table of docs/deploy.md.

python benchmarks/runtimes.py [--json FILE]
python benchmarks/runtimes.py [--json FILE] --table docs/deploy.md [--int8 FILE] [--times FILE …]

Exports the small model of every family, untrained, to all formats with batch and size open, and its maps, and notes the
largest difference from PyTorch, or what was wrong, in --json; families that are there are left as they are. --table
writes them to a page, and with them what `benchmarks/int8.py --json` and `glocal bench --json` (--times) found.
"""

import argparse
import json
from pathlib import Path
from tempfile import TemporaryDirectory

import timm
import torch
from rich.progress import track

import glocal
from glocal.bench.timing import machine
from glocal.data.preprocessing import Preprocessing
from glocal.deploy import export
from glocal.deploy.config import ENDINGS
from glocal.deploy.graph import Maps

FAMILIES = {
    "TransXNet": "transxnet_pico",
    "TransNeXt": "transnext_pico",
    "HAT-Net": "hat_net_pico",
    "TransCNN": "transcnn_pico",
    "Conv2Former": "conv2former_pico",
    "VAN": "van_pico",
}
MARKS = "<!-- runtimes: begin -->", "<!-- runtimes: end -->"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, default=Path("benchmarks/results/runtimes-cpu.json"))
    parser.add_argument("--times", type=Path, nargs="*", default=[], help="for --table: of glocal bench --json")
    parser.add_argument("--int8", type=Path, default=Path("benchmarks/results/int8-cpu.json"))
    parser.add_argument("--table", type=Path, help="write the table between its marks in this page, and stop")
    args = parser.parse_args()
    if args.table:
        results, int8, *times = (json.loads(file.read_text()) for file in (args.json, args.int8, *args.times))
        shown = table(results, int8, times)
        begin, end = MARKS
        before, _, rest = args.table.read_text().partition(begin)
        after = rest.partition(end)[2]
        args.table.write_text(f"{before}{begin}\n{shown}{end}{after}")
        return
    families = json.loads(args.json.read_text())["families"] if args.json.exists() else {}
    for name in track([name for name in FAMILIES if name not in families], "exporting"):
        families[name] = features(FAMILIES[name])
        result = {"machine": machine(torch.device("cpu"), None), "families": families}
        args.json.write_text(json.dumps(result, indent=1) + "\n")


def features(name: str) -> dict[str, float | str]:
    """The largest difference of every export of a model, in standard deviations, or what was wrong."""
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=10).eval()
    preprocessing = Preprocessing.of_model(model, 64)
    cases = {
        **{to: (model, to, {}) for to in ENDINGS},
        "maps": (Maps(model), "openvino", {"dynamic": ("size",)}),
        "preprocess": (model, "onnx", {"preprocessing": preprocessing}),
    }
    found = {}
    with TemporaryDirectory() as folder:
        for case, (exported, to, options) in cases.items():
            try:
                found[case] = export(exported, Path(folder) / f"{case}{ENDINGS[to]}", **options).difference
            except (ValueError, RuntimeError) as error:
                found[case] = " ".join(str(error).split())[:80]
    return found


def table(results: dict, int8: list[dict], times: list[dict]) -> str:
    """Two tables: differences and accuracies per family, and milliseconds per model, size and runtime."""
    trained = {(run["data"], row["model"]): row["top1"] for run in int8 for row in run["rows"]}
    data = list(dict.fromkeys(run["data"] for run in int8))
    heads = [
        "ONNX",
        "OpenVINO",
        "torch.export",
        "maps",
        "preprocessing in the file",
        *(f"int8, {name}" for name in data),
    ]
    lines = [
        "## Tested runtimes",
        "",
        "`benchmarks/runtimes.py` writes these tables. The numbers are the largest difference from PyTorch, in",
        "standard deviations of PyTorch's results, for small models with open batch and size. The int8 columns give",
        "the top-1 of a trained model, fp32 → int8.",
        "",
        "| family | " + " | ".join(heads) + " |",
        "|---|" + "---|" * len(heads),
    ]
    for name in [name for name in FAMILIES if name in results["families"]]:
        cases = results["families"][name]
        cells = [case if isinstance(case, str) else f"{case:.0e}" for case in cases.values()]
        for found in (trained.get((name_of_data, FAMILIES[name])) for name_of_data in data):
            cells.append(f"{found['fp32']:.1f} → {found['int8']:.1f}" if found else "not measured")
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    facts = results["machine"]
    lines += ["", f"{facts['date']}, torch {facts['torch']}, OpenVINO {facts['openvino']}, "
              f"ONNX Runtime {facts['onnxruntime']}, glocal {glocal.__version__}.", ""]  # fmt: skip
    columns = {}  # (engine, size, batch) → model → (ms, ratio)
    for run in times:
        for row in run["timings"]:
            key = run["options"]["engine"], tuple(row["size"]), row["batch_size"]
            columns.setdefault(key, {})[row["model"]] = row
    heads = [f"{engine}, {'×'.join(map(str, dict.fromkeys(size)))}, {batch} image{'s' * (batch > 1)}"
             for engine, size, batch in columns]  # fmt: skip
    lines += [
        "Milliseconds per image on two cores; in brackets, the ratio to timm's `convnext_tiny` in the same run. The",
        "runs are from different times, so compare ratios.",
        "",
    ]
    lines += ["| model | " + " | ".join(heads) + " |", "|---|" + "---:|" * len(heads)]
    for model in [*dict.fromkeys(model for rows in columns.values() for model in rows)]:
        cells = []
        for rows in columns.values():
            row = rows.get(model, {"error": "not measured"})
            cells.append(row["error"] or f"{row['ms']:.0f} ms ({row['ratio']:.2f})")
        lines.append(f"| {model} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
