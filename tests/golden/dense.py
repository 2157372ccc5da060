"""The authors' dense checkpoints without a file: names and shapes from `official_keys_dense.json.gz`."""

import gzip
import json
from functools import cache, lru_cache
from pathlib import Path

import numpy as np
import torch

from golden.fill import fill
from golden.official import official_keys

FOLDER = Path(__file__).parent / "segmentation"


@cache
def all_keys() -> dict:
    with gzip.open(FOLDER / "official_keys_dense.json.gz", "rt") as file:
        return json.load(file)


@lru_cache(maxsize=1)  # a test draws them twice, and the next one often again: 40 million numbers for UPerNet
def head_weights(head: str, variant: str) -> dict[str, torch.Tensor]:
    """The authors' tensors of decode head, neck and auxiliary head, with the golden values, float64; not to change."""
    return filled(all_keys()[f"{head}_{variant}"])


def dense_weights(head: str, variant: str) -> dict[str, torch.Tensor]:
    """The authors' tensors of a whole model, with the golden values, float64."""
    difference = all_keys()["_backbone_differences"][variant]
    names = {name: shape for name, shape in official_keys(variant).items() if name not in difference["absent"]}
    backbone = {f"backbone.{name}": shape for name, shape in names.items()} | difference["extra"]
    return filled(backbone) | head_weights(head, variant)


def filled(shapes: dict) -> dict[str, torch.Tensor]:
    return {name: torch.from_numpy(np.asarray(fill(name, tuple(shape)))) for name, shape in shapes.items()}


def feature(level: int, shape: tuple[int, ...]) -> torch.Tensor:
    """The input of a head case, float64."""
    return torch.from_numpy(np.random.RandomState(7000 + level).standard_normal(shape))
