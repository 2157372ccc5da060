"""Official state dicts without a weight file: names and shapes from `official_keys.json.gz`, values from `fill.py`."""

import gzip
import json
from functools import cache
from pathlib import Path

import torch

from golden.fill import fill, image, probe, sample

__all__ = ["fill_official", "image", "official_keys", "probe", "sample"]


@cache
def all_keys() -> dict[str, dict[str, list[int]]]:
    with gzip.open(Path(__file__).parent / "official_keys.json.gz", "rt") as file:
        return json.load(file)


def official_keys(variant: str) -> dict[str, tuple[int, ...]]:
    """Name → shape of every entry in the authors' state dict."""
    return {name: tuple(shape) for name, shape in all_keys()[variant].items()}


def fill_official(variant: str) -> dict[str, torch.Tensor]:
    """The authors' state dict of `variant` with the golden values, float64."""
    return {name: torch.from_numpy(fill(name, shape)) for name, shape in official_keys(variant).items()}
