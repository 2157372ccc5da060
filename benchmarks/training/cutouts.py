"""Segment photo cut-outs on wallpapers: real photographs, whose alpha channels are exact masks.

python benchmarks/training/cutouts.py --stamps DIR --wallpapers DIR [--models NAME …] [--json FILE]

Debian's package tuxpaint-stamps-default has the cut-outs (/usr/share/tuxpaint/stamps), mate-backgrounds the wallpapers
(/usr/share/backgrounds/mate/nature). A fifth of the cut-outs of each class and a quarter of the wallpapers are in the
validation images only. Results are added to FILE as they come; models that it has are not trained again.
`--table docs/results.md` adds the table of a FILE to the page.
"""

import argparse
import json
import platform
import subprocess
import sys
from datetime import date
from pathlib import Path

import numpy as np
import torch
from PIL import Image

CLASSES = {  # folders of the package; drawings are left out
    "animal": ("animals",),
    "food": ("food",),
    "plant": ("plants",),
    "thing": ("clothes", "hobbies", "household", "sports", "vehicles"),
}
DRAWN = ("cartoon", "toys", "plastic")
WITH_OBJECTS = ("LadyBird", "TwoWings", "FreshFlower", "YellowFlower")  # wallpapers that show an animal or a plant
MODELS = (
    "transxnet_pico",
    "transnext_pico",
    "hat_net_pico",
    "transcnn_pico",
    "conv2former_pico",
    "van_pico",
    "convnext_atto",
)
SIDE = 128
COUNTS = {"train": 480, "val": 120}
RECIPE = Path(__file__).with_name("cutouts.yaml")
HEADING = "## Photo cut-outs, 64 × 64"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stamps", type=Path)
    parser.add_argument("--wallpapers", type=Path)
    parser.add_argument("--models", nargs="+", default=list(MODELS))
    parser.add_argument("--json", type=Path, default=Path("benchmarks/results/cutouts-cpu.json"))
    parser.add_argument("--output", type=Path, default=Path("runs/cutouts"))
    parser.add_argument("--table", type=Path, help="write the table of the results so far into this page, and stop")
    args = parser.parse_args()
    results = json.loads(args.json.read_text()) if args.json.exists() else []
    if args.table:
        page = args.table.read_text().partition(HEADING)[0].rstrip()
        args.table.write_text(f"{page}\n\n{HEADING}\n\n{table(results)}")
        return
    data = args.output / "data"
    if not data.exists():
        make(data, args.stamps, args.wallpapers)
    for model in args.models:
        if any(row["model"] == model for row in results):
            continue
        results.append(train(model, data, args.output / model))
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps(results, indent=1) + "\n")


def make(data: Path, stamps: Path, wallpapers: Path) -> None:
    """Write images with their masks."""
    random = np.random.RandomState(0)
    grounds = [file for file in sorted(wallpapers.rglob("*.jpg")) if file.stem not in WITH_OBJECTS]
    cutouts = [found_in(stamps, folders) for folders in CLASSES.values()]
    for files in (grounds, *cutouts):
        random.shuffle(files)
    for part, count in COUNTS.items():
        own_grounds = of_part(grounds, part, 4)
        own_cutouts = [of_part(files, part, 5) for files in cutouts]
        for half in ("images", "masks"):
            (data / half / part).mkdir(parents=True)
        for number in range(count):
            image, mask = composed(random, own_grounds, own_cutouts)
            image.save(data / "images" / part / f"{number:04}.png")
            mask.save(data / "masks" / part / f"{number:04}.png")
    (data / "classes.txt").write_text("\n".join(["background", *CLASSES]) + "\n")


def found_in(stamps: Path, folders: tuple[str, ...]) -> list[Path]:
    """The cut-outs of photographs in some folders: files whose alpha has both ends."""
    files = [file for folder in folders for file in sorted((stamps / folder).rglob("*.png"))]
    files = [file for file in files if not any(word in str(file) for word in DRAWN)]
    return [file for file in files if Image.open(file).convert("RGBA").getchannel("A").getextrema() == (0, 255)]


def of_part(files: list[Path], part: str, every: int) -> list[Path]:
    held = files[::every]
    return held if part == "val" else [file for file in files if file not in held]


def composed(random, grounds: list[Path], cutouts: list[list[Path]]) -> tuple[Image.Image, Image.Image]:
    """One to three cut-outs on a part of a wallpaper; a pixel is of an object if more than half of it is."""
    ground = Image.open(grounds[random.randint(len(grounds))]).convert("RGB")
    side = random.randint(min(ground.size) // 3, min(ground.size))
    left, top = (random.randint(length - side + 1) for length in ground.size)
    image = ground.crop((left, top, left + side, top + side)).resize((SIDE, SIDE), Image.Resampling.LANCZOS)
    mask = Image.new("L", image.size, 0)
    for _ in range(random.randint(1, 4)):
        label = random.randint(len(cutouts))
        stamp = Image.open(cutouts[label][random.randint(len(cutouts[label]))]).convert("RGBA")
        stamp = stamp.crop(stamp.getchannel("A").getbbox())
        size = SIDE * random.uniform(0.3, 0.7) / max(stamp.size)
        stamp = stamp.resize([max(1, round(length * size)) for length in stamp.size], Image.Resampling.LANCZOS)
        place = tuple(random.randint(-length // 4, SIDE - 3 * length // 4) for length in stamp.size)
        alpha = stamp.getchannel("A")
        image.paste(stamp, place, alpha)
        mask.paste(label + 1, place, alpha.point(lambda level: 255 * (level > 127)).convert("1"))
    return image, mask


def train(model: str, data: Path, output: Path) -> dict:
    command = [sys.executable, "-m", "glocal", "train", str(data), "--config", str(RECIPE)]
    subprocess.run([*command, "--model", model, "--output", str(output), "--overwrite"], check=True)
    measured = output / "eval.json"
    command = [sys.executable, "-m", "glocal", "eval", str(data), "--checkpoint", str(output), "--json", str(measured)]
    subprocess.run([*command, "--boundary"], check=True)
    summary, found = json.loads((output / "summary.json").read_text()), json.loads(measured.read_text())
    return {
        "model": model,
        **{key: found[key] for key in ("miou", "macc", "aacc", "boundary_iou")},
        "per_class": {entry["name"]: entry["iou"] for entry in found["per_class"]},
        "epochs": summary["epochs"],
        "parameters": summary["parameters"],
        "date": date.today().isoformat(),
        "machine": platform.machine(),
        "torch": torch.__version__,
    }


def table(results: list[dict]) -> str:
    rows = sorted(results, key=lambda row: -row["miou"])
    names = list(rows[0]["per_class"])
    names = ["background", *sorted(name for name in names if name != "background")]
    epochs = rows[0]["epochs"]
    lines = [
        f"The head `semantic_fpn` on each backbone from scratch, {epochs} epochs of {COUNTS['train']} images,",
        "which are photo cut-outs on wallpapers.",
        f"Measured on {COUNTS['val']} images of cut-outs and wallpapers that training does not see. To repeat it, run",
        "`benchmarks/training/cutouts.py`. The best of the epochs, chosen on the same images.",
        "",
        "So few images and epochs teach the networks where an object is, and hardly which: the class `thing`, from",
        "clothes to vehicles, is not found at all. Each backbone was trained once. How far a second training would be",
        "from the first was not measured, so the order of the backbones says little.",
        "",
        "| backbone | mIoU % | boundary IoU % | pixels right % | " + " | ".join(names) + " | parameters |",
        "|---|" + "---:|" * (len(names) + 4),
    ]
    for row in rows:
        numbers = [row["miou"], row["boundary_iou"], row["aacc"], *(row["per_class"][name] for name in names)]
        figures = " | ".join(f"{number:.1f}" for number in numbers)
        lines.append(f"| {row['model']} | {figures} | {row['parameters']:,} |")
    lines += ["", f"{rows[0]['date']}, {rows[0]['machine']}, torch {rows[0]['torch']}."]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
