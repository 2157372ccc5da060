"""The golden cases of detectors (`golden/detection`): parameters, inputs, objects and random numbers, all by formula.

A case is named after a head, a backbone, and the size of the padded batch of two images. Nothing of the backbone is in
it: the heads get `stage_maps`. Everything is float64.
"""

import gzip
import json
import re
from functools import cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from golden.errors import seen
from golden.fill import fill, sample
from golden.official import official_keys

FOLDER = Path(__file__).parent / "detection"

CHANNELS = {
    "transxnet_t": (48, 96, 224, 448),
    "transxnet_b": (76, 152, 336, 672),
    "transnext_tiny": (72, 144, 288, 576),
    "transnext_small": (72, 144, 288, 576),
    "transnext_base": (96, 192, 384, 768),
    "conv2former_t": (72, 144, 288, 576),
    "hat_net_tiny": (48, 96, 240, 384),
    "hat_net_small": (64, 128, 320, 512),
    "van_b0": (32, 64, 160, 256),
    "van_b2": (64, 128, 320, 512),
}

# (part of the official name, gain of weight and bias, shift added to the bias): the first that occurs counts.
RULES = {
    "retinanet": [("bbox_head.retina_cls", 5.0, -4.2)],
    "maskrcnn": [("rpn_head.rpn_cls", 3.0, 0.0), ("fc_cls", 4.0, 0.0), ("conv_logits", 4.0, 0.0)],
    "cascade2fc": [("rpn_head.rpn_cls", 3.0, 0.0), ("fc_cls", 4.0, 0.0), ("conv_logits", 4.0, 0.0)],
    "cascade": [("rpn_head.rpn_cls", 3.0, 0.0), ("fc_cls", 12.0, 0.0), ("conv_logits", 4.0, 0.0)],
    "dino": [("bbox_head.cls_branches", 1.5, 0.0), ("query_embedding", 10.0, 0.0)],
}


def load(case: str) -> dict[str, np.ndarray]:
    return dict(np.load(FOLDER / f"{case}.npz"))


def parse(case: str) -> tuple[str, str, tuple[int, int]]:
    """The authors' word for the head, the backbone, and (H, W) of the padded batch."""
    head, backbone, height, width = re.match(r"([a-z0-9]+)_(\w+)_(\d+)x(\d+)", case).groups()
    return head, backbone, (int(height), int(width))


@cache
def all_keys() -> dict:
    """`cases`: name and shape of each parameter of a case's head; `backbone`: how files differ from classifiers'."""
    with gzip.open(FOLDER / "official_keys_dense.json.gz", "rt") as file:
        return json.load(file)


def head_weights(case: str) -> dict[str, Tensor]:
    """The authors' tensors of a case's head."""
    head = parse(case)[0]
    shapes = all_keys()["cases"][case.removesuffix("_train")]
    rules = RULES["dino" if head.startswith("dino") else head]
    return {name: torch.from_numpy(np.asarray(_value(name, tuple(shape), rules))) for name, shape in shapes.items()}


def file_weights(case: str) -> dict[str, Tensor]:
    """The authors' tensors of a case's backbone and head, as in their files."""
    head, variant, _ = parse(case)
    difference = all_keys()["backbone"].get(f"{variant.partition('_')[0]}_{head.rstrip('45')}", {"extra": []})
    absent = tuple(difference.get("missing", ["head."]))  # of others there are no files
    shapes = {name: shape for name, shape in official_keys(variant).items() if not name.startswith(absent)}
    for name in difference["extra"]:  # norm0, norm2, norm4, norm6
        shapes[name] = (CHANNELS[variant][int(name[4]) // 2],)
    names = {f"backbone.{name}": fill(name, tuple(shape)) for name, shape in shapes.items()}
    return {name: torch.from_numpy(np.asarray(value)) for name, value in names.items()} | head_weights(case)


def _value(name: str, shape: tuple[int, ...], rules: list) -> np.ndarray:
    value = fill(name, shape)
    for part, gain, shift in rules:
        if part in name:
            return value * gain + (shift if name.endswith("bias") else 0)
    return value


def stage_maps(case: str, batch: int = 2) -> list[Tensor]:
    """The four maps of a case's backbone, at strides 4, 8, 16 and 32."""
    _, backbone, (height, width) = parse(case)
    maps = []
    for level, channels in enumerate(CHANNELS[backbone]):
        shape = (batch, channels, *(-(-side // (4 * 2**level)) for side in (height, width)))
        maps.append(torch.from_numpy(np.random.RandomState(7000 + level).standard_normal(shape)))
    return maps


def sizes(golden: dict) -> Tensor:
    """(height, width) of each image before padding, (2, 2)."""
    return torch.tensor(np.stack([golden[f"meta{i}_img_shape"][:2] for i in range(2)]))


def original_scale(golden: dict, image: int) -> Tensor:
    """What boxes in pixels of the network's input are divided by, (4,): golden boxes are in the original's pixels."""
    scale = torch.from_numpy(golden[f"meta{image}_scale_factor"]).double()
    return scale if len(scale) == 4 else scale.repeat(2)


def targets(golden: dict) -> list[dict[str, Tensor]]:
    """The objects of the two images; with masks of each image's own padded size if the case has one."""
    found = []
    for image in range(2):
        boxes = golden[f"gt{image}_boxes"]
        target = {"boxes": torch.from_numpy(boxes).double(), "labels": torch.from_numpy(golden[f"gt{image}_labels"])}
        if f"gt{image}_mask_area" in golden:
            size = golden[f"meta{image}_pad_shape"][:2]
            target["masks"] = torch.from_numpy(np.stack([ellipse(box, *size) for box in boxes]))
        found.append(target)
    return found


def ellipse(box, height: int, width: int) -> np.ndarray:
    """The mask of an object, uint8: the ellipse inside its box."""
    x1, y1, x2, y2 = (float(side) for side in box)
    y, x = np.mgrid[0:height, 0:width] + 0.5
    across, down = (x - (x1 + x2) / 2) / ((x2 - x1) / 2), (y - (y1 + y2) / 2) / ((y2 - y1) / 2)
    return (across**2 + down**2 <= 1).astype(np.uint8)


def choose(indices: Tensor, count: int) -> Tensor:
    """In place of chance: indices at even distances."""
    return indices[(torch.arange(count) * len(indices)) // count]


class DenoisingRandom:
    """In place of chance, the numbers of DINO's denoising queries: the n-th draw has the seed 5000 + n.

    The draws: a uniform number for each noisy target; a class for each that changes its class; signs, 0 or 1, for each
    noisy target and coordinate; uniform numbers of the same shape.
    """

    def __init__(self):
        self.draws = 0

    def _next(self) -> np.random.RandomState:
        self.draws += 1
        return np.random.RandomState(5000 + self.draws)

    def uniform(self, shape) -> np.ndarray:
        return self._next().uniform(size=shape)

    def integers(self, low: int, high: int, shape) -> np.ndarray:
        return self._next().randint(low, high, size=shape)


def assert_close(actual: Tensor, golden: dict, name: str, tolerance: float = 1e-6):
    """The tensor has the golden shape, root mean square, and values where samples were taken."""
    assert tuple(actual.shape) == tuple(golden[f"{name}_shape"]), name
    array, expected = actual.detach().double().numpy(), golden[name].reshape(-1)
    error = np.abs(sample(array, len(expected)) - expected) / np.maximum(1, np.abs(expected))
    assert seen(error.max(), name) <= tolerance, f"{name}: worst error {error.max():.2e}"
    rms = float(golden[f"{name}_rms"])
    assert abs(np.sqrt(np.square(array).mean()) - rms) <= tolerance * rms, f"{name}: rms"


def assert_gradients(gradients: dict[str, Tensor | None], golden: dict, tolerance: float = 1e-9):
    """The gradients, by the authors' names, have the golden norms."""
    expected = dict(zip(golden["names"].tolist(), golden["grad_norms"].tolist(), strict=True))
    assert gradients.keys() == expected.keys()
    norms = {name: 0.0 if grad is None else grad.double().norm().item() for name, grad in gradients.items()}
    seen(max(abs(norms[name] - norm) / max(1, norm) for name, norm in expected.items()), "norms of gradients")
    wrong = {name: norms[name] for name, norm in expected.items() if abs(norms[name] - norm) > max(1, norm) * tolerance}
    assert not wrong
