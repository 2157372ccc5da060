"""Train the small model of every family, and two of timm's, under one recipe: Fashion-MNIST and the digits.

python benchmarks/training/families.py --data-dir DIR [--models NAME …] [--json FILE]

DIR holds Fashion-MNIST's four idx.gz files (Debian: the package dataset-fashion-mnist, in
/usr/share/datasets/fashion-mnist). Results are added to FILE as they come; models that it has are not trained again.
`--speed` measures instead how fast each of them trains: short runs in turn, with nothing beside them.
`--table docs/results.md` writes the table of a FILE.
"""

import argparse
import gzip
import json
import platform
import statistics
import struct
import subprocess
import sys
from datetime import date
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

# As many epochs of Fashion-MNIST as fit into 15 minutes on two cores of 2.5 GHz.
EPOCHS = {
    "transxnet_pico": 6,
    "transnext_pico": 7,
    "hat_net_pico": 9,
    "conv2former_pico": 9,
    "van_pico": 9,
    "convnext_atto": 6,
    "pvt_v2_b0": 6,
}
RECIPES = Path(__file__).parent
TITLES = {"fashion": "Fashion-MNIST, 32 × 32", "digits": "Digits, 32 × 32"}
ROUNDS, SHORT = 3, 6000  # of --speed: runs of every model, and their training images
IMAGES = 60000


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", help="folder of Fashion-MNIST's four files; without it, the digits only")
    parser.add_argument("--models", nargs="+", default=list(EPOCHS))
    parser.add_argument("--sets", nargs="+", default=list(TITLES), choices=list(TITLES))
    parser.add_argument("--json", type=Path, default=Path("benchmarks/results/training-cpu.json"))
    parser.add_argument("--output", type=Path, default=Path("runs/families"))
    parser.add_argument("--speed", action="store_true", help="measure the images per second of the models in FILE")
    parser.add_argument("--table", type=Path, help="write the table of the results so far to this file, and stop")
    args = parser.parse_args()
    results = json.loads(args.json.read_text()) if args.json.exists() else []
    if args.table:
        args.table.write_text(table(results))
        return
    if args.speed:
        measure([row for row in results if row["set"] == "fashion"], Path(args.data_dir))
        args.json.write_text(json.dumps(results, indent=1) + "\n")
        return
    for name in args.sets:
        data = args.data_dir if name == "fashion" else "digits"
        for model in args.models:
            if data is None or any((row["set"], row["model"]) == (name, model) for row in results):
                continue
            results.append({"set": name} | train(name, data, model, args.output / f"{name}-{model}"))
            args.json.parent.mkdir(parents=True, exist_ok=True)
            args.json.write_text(json.dumps(results, indent=1) + "\n")


def measure(rows: list[dict], data: Path) -> None:
    """Put the median images per second of short runs, in turn, into the rows."""
    with TemporaryDirectory() as folder:
        few = Path(folder) / "data"
        few.mkdir()
        for file in data.glob("*.gz"):
            (few / file.name).write_bytes(gzip.compress(first_of(gzip.decompress(file.read_bytes())), 1))
        seen: dict[str, list[float]] = {row["model"]: [] for row in rows}
        for turn in range(ROUNDS):
            for model, speeds in seen.items():
                summary = run("fashion", str(few), model, Path(folder) / f"{model}-{turn}", epochs=1)
                speeds.append(summary["images_per_second"])
    for row in rows:
        row["images_per_second"] = statistics.median(seen[row["model"]])
        row["speeds"] = seen[row["model"]]


def first_of(content: bytes) -> bytes:
    """An idx file with its first images or labels only."""
    axes = content[3]
    count, *sides = struct.unpack(f">{axes}I", content[4 : 4 + 4 * axes])
    size = 1
    for side in sides:
        size *= side
    kept = min(count, SHORT)
    start = 4 + 4 * axes
    return content[:4] + struct.pack(f">{axes}I", kept, *sides) + content[start : start + kept * size]


def run(name: str, data: str, model: str, output: Path, epochs: int | None = None) -> dict:
    """One run of `glocal train` with the recipe of that name; its summary."""
    command = [sys.executable, "-m", "glocal", "train", data, "--config", str(RECIPES / f"{name}.yaml")]
    command += ["--model", model, "--output", str(output)]
    command += [] if epochs is None else ["--epochs", str(epochs)]
    subprocess.run(command, check=True)
    return json.loads((output / "summary.json").read_text())


def train(name: str, data: str, model: str, output: Path) -> dict:
    summary = run(name, data, model, output, EPOCHS[model] if name == "fashion" else None)
    return {
        "model": model,
        "top1": summary["metrics"]["top1"],
        "epochs": summary["epochs"],
        "parameters": summary["parameters"],
        "images_per_second": summary["images_per_second"],
        "seconds": summary["seconds"],
        "date": date.today().isoformat(),
        "cores": torch.get_num_threads(),
        "machine": platform.machine(),
        "torch": torch.__version__,
    }


def table(results: list[dict]) -> str:
    """The results as a page, a table per set, best first."""
    lines = [
        "# Results of small trainings",
        "",
        "Each model is trained from scratch on CPU cores, with one recipe per data set (`benchmarks/training/*.yaml`)",
        "and one seed. To repeat it, run `benchmarks/training/families.py`.",
        "",
        "- **Fashion-MNIST:** as many epochs as fit into about 15 minutes. The test part is used once, after the last",
        "  epoch.",
        "- **Digits:** the best of ten epochs, measured on the held-out part.",
        "- **Images per second:** medians of three short runs on Fashion-MNIST; the models take turns (`--speed`).",
        "- **Minutes:** the time of these epochs at that speed.",
        "",
        "The target on Fashion-MNIST was 93 %. For the settings that we tried, see [short",
        "training](performance.md#short-training-fashion-mnist-cpu).",
    ]
    for name, title in TITLES.items():
        rows = sorted((row for row in results if row["set"] == name), key=lambda row: -row["top1"])
        if not rows:
            continue
        timed = name == "fashion"
        lines += ["", f"## {title}", ""]
        lines += ["| model | top-1 % | parameters | epochs |" + (" images/s | minutes |" if timed else "")]
        lines += ["|---|---:|---:|---:|" + ("---:|---:|" if timed else "")]
        for row in rows:
            line = f"| {row['model']} | {row['top1']:.2f} | {row['parameters']:,} | {row['epochs']} |"
            if timed:
                minutes = row["epochs"] * IMAGES / row["images_per_second"] / 60
                line += f" {row['images_per_second']:,.0f} | {minutes:.1f} |"
            lines.append(line)
        first = rows[0]
        lines += ["", f"{first['date']}, {first['cores']} cores, {first['machine']}, torch {first['torch']}."]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
