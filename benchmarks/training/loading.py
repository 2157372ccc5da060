"""Images per second that one worker loads: JPEG photographs, transformed for evaluation and for training.

python benchmarks/training/loading.py [--json FILE]

The photographs are scikit-learn's two, 640 × 427 pixels, saved at quality 90; the result is 224 × 224. The ways take
turns; the median of the rounds counts. One process, one thread, no workers of a loader.
"""

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path

import torch
from PIL import Image
from rich.console import Console
from rich.table import Table
from sklearn.datasets import load_sample_images

from glocal.data.dataset import ImageDataset
from glocal.data.open import open_for_training
from glocal.data.preprocessing import Augmentation, Preprocessing
from glocal.tasks.creation import create_model
from glocal.tasks.labels.transform import LabelTransform

COPIES = 20  # of each photograph
CROP = dict(crop_scale=0.08, crop_ratio=3 / 4, hflip=0.5, color_jitter=0.0)
KINDS = {
    "evaluation": None,
    "random crop, mirror image": Augmentation(**CROP, auto_augment=None, random_erasing=0.0),
    "and RandAugment, random erasing": Augmentation(**CROP, auto_augment="rand-m9-mstd0.5-inc1", random_erasing=0.25),
}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", type=Path, help="also write the figures here")
    args = parser.parse_args()
    torch.set_num_threads(1)
    preprocessing = Preprocessing.of_model(create_model("transxnet_t", device="meta"))
    with tempfile.TemporaryDirectory() as folder:
        write_photographs(Path(folder))
        samples = open_for_training(folder).splits["train"]
        datasets = {}
        for name, kind in KINDS.items():
            datasets[name] = ImageDataset(samples, LabelTransform(preprocessing, kind))
        rates = {name: [] for name in datasets}
        for step in range(args.rounds + 1):
            for name, dataset in datasets.items():
                start = time.perf_counter()
                for index in range(len(dataset)):
                    dataset[index, step * len(dataset) + index]
                if step:
                    rates[name].append(len(dataset) / (time.perf_counter() - start))
    table = Table("transform", "images/s of one worker", title="JPEG, 640 × 427 to 224 × 224", title_justify="left")
    medians = {name: statistics.median(values) for name, values in rates.items()}
    for name, rate in medians.items():
        table.add_row(name, f"{rate:.0f}")
    Console().print(table)
    if args.json:
        args.json.write_text(json.dumps(medians, indent=1) + "\n")


def write_photographs(root: Path) -> None:
    for name, pixels in zip(("temple", "flower"), load_sample_images().images, strict=True):
        (root / name).mkdir()
        for copy in range(COPIES):
            Image.fromarray(pixels).save(root / name / f"{copy:02}.jpg", quality=90)


if __name__ == "__main__":
    main()
