"""Train the small model of every family, and two of timm's, under one recipe: Fashion-MNIST and the digits.

python benchmarks/training/families.py --data-dir DIR [--models NAME …] [--json FILE]

DIR holds Fashion-MNIST's four idx.gz files (Debian: the package dataset-fashion-mnist, in
/usr/share/datasets/fashion-mnist). Results are added to FILE as they come; models that it has are not trained again.
`--table docs/results.md` writes the table of a FILE.
"""

import argparse
import json
import platform
from datetime import date
from pathlib import Path

import torch
import yaml

from glocal.training.config import TrainConfig
from glocal.training.train import train

MODELS = ["transxnet_pico", "transnext_pico", "hat_net_pico", "transcnn_pico", "conv2former_pico", "van_pico"]
PEERS = ["convnext_atto", "pvt_v2_b0"]
RECIPES = Path(__file__).parent


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", help="folder of Fashion-MNIST's four files; without it, the digits only")
    parser.add_argument("--models", nargs="+", default=MODELS + PEERS)
    parser.add_argument("--sets", nargs="+", default=["fashion", "digits"], choices=["fashion", "digits"])
    parser.add_argument("--json", type=Path, default=Path("benchmarks/results/training-cpu.json"))
    parser.add_argument("--output", type=Path, default=Path("runs/families"))
    parser.add_argument("--table", type=Path, help="write the table of the results so far to this file, and stop")
    args = parser.parse_args()
    results = json.loads(args.json.read_text()) if args.json.exists() else []
    if args.table:
        args.table.write_text(table(results))
        return
    for name in args.sets:
        recipe = yaml.safe_load((RECIPES / f"{name}.yaml").read_text())
        data = args.data_dir if name == "fashion" else "digits"
        for model in args.models:
            if data is None or any((row["set"], row["model"]) == (name, model) for row in results):
                continue
            config = TrainConfig(data=data, model=model, output=str(args.output / f"{name}-{model}"), **recipe)
            result = train(config)
            row = {
                "set": name,
                "model": model,
                "top1": result.metrics["top1"],
                "best_epoch": result.metrics["epoch"],
                "epochs": result.epochs,
                "parameters": result.parameters,
                "images_per_second": result.images_per_second,
                "seconds": result.seconds,
                "date": date.today().isoformat(),
                "threads": torch.get_num_threads(),
                "machine": platform.machine(),
                "torch": torch.__version__,
            }
            results.append(row)
            args.json.parent.mkdir(parents=True, exist_ok=True)
            args.json.write_text(json.dumps(results, indent=1) + "\n")


def table(results: list[dict]) -> str:
    """The results as a page, a table per set, best first."""
    lines = [
        "# Results of small trainings",
        "",
        "Every model from scratch, one recipe per set (`benchmarks/training/*.yaml`), one seed, on CPU cores;",
        "`benchmarks/training/families.py` repeats it. The accuracy is that of the best epoch on the test part, which",
        "also chose the epoch.",
    ]
    for name, title in (("fashion", "Fashion-MNIST, 32 × 32"), ("digits", "Digits, 32 × 32")):
        rows = sorted((row for row in results if row["set"] == name), key=lambda row: -row["top1"])
        if not rows:
            continue
        lines += ["", f"## {title}", "", "| model | top-1 % | parameters | images/s | minutes | epochs |"]
        lines += ["|---|---:|---:|---:|---:|---:|"]
        lines += [
            f"| {row['model']} | {row['top1']:.2f} | {row['parameters']:,} | {row['images_per_second']:,.0f} "
            f"| {row['seconds'] / 60:.1f} | {row['epochs']} |"
            for row in rows
        ]
        first = rows[0]
        lines += ["", f"{first['date']}, {first['threads']} threads, {first['machine']}, torch {first['torch']}."]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
