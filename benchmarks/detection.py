"""Speed and memory of detectors on a CPU: backbones under two heads, OpenVINO, and small detectors beside D-FINE-N.

    python benchmarks/detection.py [OUT] [--parts backbones memory engines small] [--tiny]

Writes JSON files into OUT (benchmarks/results/detection-<date>), each when it is complete. Nothing else may run
meanwhile. With --tiny it takes minutes, most of them for compiling, to see that it works; its figures say nothing.

backbones: inference and training steps at 800 × 1280 with mask_rcnn and dino, as `glocal bench` writes them: HEAD-MODE.
memory: of a training step of backbones with mask_rcnn at 800 × 1344, as `peak_memory.py` prints it, a process for each.
engines: a detector of each head in PyTorch and in OpenVINO, in turns: engines.
small: detectors of a few million parameters in OpenVINO, from normalised images to the boxes that are left, and
D-FINE-N (arXiv 2410.13842) of transformers with its own choice of boxes, in turns: small. Needs transformers.

All weights are random. How many boxes the heads then find: docs/detection.md, Speed.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Callable, Hashable
from datetime import date
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from segmentation import REMEMBERED, memory
from torch import Tensor, nn

from glocal import deploy
from glocal.bench import detection, headed
from glocal.bench.config import BenchConfig, parse_sizes
from glocal.bench.cost import count_params
from glocal.bench.steps import Entry, step_of
from glocal.bench.timing import CPU, in_turns, machine
from glocal.deploy import runtimes
from glocal.deploy.files import coarse_images
from glocal.device import keep_freed_memory
from glocal.tasks.detection.outputs import Detections

PARTS = ["backbones", "memory", "engines", "small"]
BACKBONES = ["transxnet_t", "transnext_tiny", "conv2former_t", "hat_net_tiny", "van_b1", "swin_tiny_patch4_window7_224"]
HEADS = {"retinanet": {}, "faster_rcnn": {}, "mask_rcnn": {}, "cascade_mask_rcnn": {}, "dino": {}}
COMPARED = {"mask_rcnn": {}, "dino": {}}  # with the backbones
LIGHT = {"width": 64, "depth": 2}  # of RetinaNet, as in `make demo-detect`
LIGHTER = {"width": 32, "depth": 1}
TINY = {"mask_rcnn": {"width": 16, "hidden": 32}, "dino": {"width": 64, "depth": 1, "num_queries": 50}}
SMALL = [
    ("van_b0", LIGHT),
    ("van_b0", LIGHTER),
    ("transxnet_pico", {"width": 128, "depth": 2}),
    ("transxnet_pico", LIGHT),
    ("transxnet_pico", LIGHTER),
]


def bench(out: Path, name: str, models: list[str], *options: str) -> None:
    """`glocal bench` in a process of its own, with this checkout's package first."""
    source = str(Path(__file__).resolve().parents[1] / "src")
    path = os.pathsep.join(filter(None, [source, os.environ.get("PYTHONPATH")]))
    common = ["--task", "detection", "--device", "cpu", "--json", str(out / f"{name}.json")]
    command = [sys.executable, "-m", "glocal", "bench", *models, *common, *options]
    if subprocess.run(command, env=os.environ | {"PYTHONPATH": path}).returncode:
        print("not whole:", *command[3:], file=sys.stderr)


def write(file: Path, rows: list[dict]) -> None:
    file.write_text(json.dumps({"machine": machine(CPU, None), "rows": rows}, indent=1) + "\n")


def figures(seconds: dict[Hashable, list[float]]) -> dict[Hashable, dict[str, float]]:
    """Milliseconds and images per second by the median, the shortest time, and the quartiles' ratio, of each step."""
    found = {}
    for key, times in seconds.items():
        first, median, third = statistics.quantiles(times, n=4, method="inclusive") if len(times) > 1 else times * 3
        found[key] = {"ms": 1000 * median, "fastest": 1000 * min(times), "spread": third / first, "rate": 1 / median}
    return found


def engines(out: Path, backbone: str, heads: dict[str, dict], size: str, rounds: int) -> None:
    """The objects of an image by each head, in PyTorch and in OpenVINO."""
    rows = []
    for head, args in heads.items():
        steps = {}
        for engine in ("torch", "openvino"):
            options = {"head": head, "head_args": args, "sizes": size, "engine": engine, "device": "cpu"}
            config = BenchConfig([backbone], backbone, task="detection", **options)
            steps[engine] = step_of(Entry(backbone, head), config, CPU, *parse_sizes(size), 1).run
        for engine, found in timed(steps, rounds).items():
            objects = len(steps[engine]()[0][0])
            about = {"backbone": backbone, "head": head, "engine": engine, "size": size, "objects": objects}
            rows.append({**about, **found})
        write(out / "engines.json", rows)


def timed(steps: dict[Hashable, Callable[[], object]], rounds: int) -> dict[Hashable, dict[str, float]]:
    in_turns(steps, range(2))  # the first steps make what is kept for a size
    return figures(in_turns(steps, range(rounds)))


def small(out: Path, models: list[tuple[str, dict]], sides: list[int], rounds: int) -> None:
    """Images per second of small detectors in OpenVINO, boxes chosen."""
    rows = []
    for side in sides:
        steps, params = {}, {}
        images = next(iter(coarse_images([(1, 3, side, side)])))
        for name, args in models:
            torch.manual_seed(0)
            model = headed.with_head(name, "retinanet", (side, side), args)
            detection.let_find(model, images)
            key = f"{name} + retinanet {json.dumps(args)}"
            params[key] = count_params(model)
            engine = deploy.compile(Detections(model).eval(), "openvino", (3, side, side))
            steps[key] = partial(engine, images.numpy())
        key = "D-FINE-N"
        model = d_fine_nano()
        params[key] = count_params(model)
        steps[key] = in_openvino(model, images)
        for key, found in timed(steps, rounds).items():
            rows.append({"model": key, "params": params[key], "side": side, **found})
        write(out / "small.json", rows)


class DFine(nn.Module):
    """D-FINE with its choice of boxes: images to boxes (B, 300, 4) in pixels, scores and labels (B, 300)."""

    def __init__(self, model: nn.Module, size: tuple[int, int]):
        super().__init__()
        self.model = model
        self.register_buffer("scale", torch.tensor([size[1], size[0], size[1], size[0]], dtype=torch.float32))

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        found = self.model(images)
        centre, sides = found.pred_boxes.split(2, -1)
        boxes = torch.cat((centre - sides / 2, centre + sides / 2), -1) * self.scale
        queries, classes = found.logits.shape[1:]
        scores, index = found.logits.sigmoid().flatten(1).topk(queries)
        chosen = torch.div(index, classes, rounding_mode="floor")
        return boxes.gather(1, chosen[..., None].expand(-1, -1, 4)), scores, index % classes


def d_fine_nano() -> nn.Module:
    """D-FINE-N of transformers by its published values, untrained.

    The convolutions side by side in RepVGG's blocks are merged, as its authors do before inference.
    """
    from transformers import DFineConfig, DFineForObjectDetection
    from transformers.models.d_fine.modeling_d_fine import DFineRepVggBlock

    backbone = {
        "model_type": "hgnet_v2",
        "hidden_sizes": [128, 256, 512, 1024],
        "embedding_size": 32,
        "stem_channels": [3, 16, 16],
        "stage_in_channels": [16, 64, 256, 512],
        "stage_mid_channels": [16, 32, 64, 128],
        "stage_out_channels": [64, 256, 512, 1024],
        "stage_num_blocks": [1, 1, 2, 1],
        "stage_downsample": [False, True, True, True],
        "stage_light_block": [False, False, True, True],
        "stage_kernel_size": [3, 3, 5, 5],
        "stage_numb_of_layers": [3, 3, 3, 3],
        "out_indices": [3, 4],
        "use_learnable_affine_block": True,
    }
    config = DFineConfig(
        backbone_config=backbone,
        num_labels=80,
        num_feature_levels=2,
        feat_strides=[16, 32],
        encoder_in_channels=[512, 1024],
        encoder_hidden_dim=128,
        encoder_ffn_dim=512,
        encode_proj_layers=[1],
        hidden_expansion=0.34,
        depth_mult=0.5,
        d_model=128,
        decoder_in_channels=[128, 128],
        decoder_ffn_dim=512,
        decoder_n_points=[6, 6],
        decoder_layers=3,
    )
    torch.manual_seed(0)
    model = DFineForObjectDetection(config).eval()
    for parameter in model.parameters():
        if parameter.ndim > 1:  # as it starts, all positions are nearly alike
            nn.init.normal_(parameter, std=(2 / parameter[0].numel()) ** 0.5)
    for parent in list(model.modules()):
        for name, block in parent.named_children():
            if isinstance(block, DFineRepVggBlock):
                setattr(parent, name, nn.Sequential(merged(block.conv1, block.conv2), block.activation))
    return model


@torch.no_grad()
def merged(*branches: nn.Module) -> nn.Conv2d:
    """Convolutions of 3 × 3 and 1 × 1 with batch norm, whose outputs are added, as one of 3 × 3."""
    first = branches[0].conv
    whole = nn.Conv2d(first.in_channels, first.out_channels, 3, padding=1)
    whole.weight.zero_()
    whole.bias.zero_()
    for branch in branches:
        fused = nn.utils.fuse_conv_bn_eval(branch.conv, branch.norm)
        rest = (3 - fused.kernel_size[0]) // 2
        whole.weight += nn.functional.pad(fused.weight, [rest] * 4)
        whole.bias += fused.bias
    return whole


def in_openvino(model: nn.Module, images: Tensor) -> Callable[[], object]:
    """D-FINE with its choice of boxes for images of one size; checked against PyTorch."""
    import openvino

    whole = DFine(model, images.shape[2:]).eval()
    with torch.no_grad(), runtimes.quiet(), TemporaryDirectory() as folder:
        expected = whole(images)[1]
        graph = openvino.convert_model(torch.export.export(whole, (images,)))
        openvino.save_model(graph, Path(folder) / "model.xml", compress_to_fp16=False)
        run = runtimes.openvino(Path(folder) / "model.xml", tuple(images.shape))
    difference = (torch.from_numpy(run(images.numpy())[1]) - expected).abs().max()
    if difference > 1e-2:
        raise RuntimeError(f"D-FINE-N computes something else in OpenVINO: scores differ by {difference:.1e}")
    return partial(run, images.numpy())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", nargs="?", default=f"benchmarks/results/detection-{date.today()}")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--tiny", action="store_true")
    args = parser.parse_args()
    out = Path(args.out)
    out.mkdir(parents=True, exist_ok=True)
    keep_freed_memory()
    if "backbones" in args.parts:
        models = ["van_pico"] if args.tiny else BACKBONES
        more = ["--sizes", "64", "--baseline", "test_mambaout", "--rounds", "1"] if args.tiny else []
        for head, head_args in (TINY if args.tiny else COMPARED).items():
            options = ["--head", head, "--head-args", json.dumps(head_args)]
            if head == "mask_rcnn":  # the backbones alone are the same under both heads
                options.append("--backbones")
            bench(out, f"{head}-infer", models, "--fuse", "--rounds", "4", *options, *more)
            bench(out, f"{head}-train", models, "--mode", "train", "--rounds", "2", *options, *more)
    if "memory" in args.parts:
        models, size = (["van_pico"], "64") if args.tiny else (REMEMBERED, "800x1344")  # 800 × 1333, padded
        memory(out, models, "mask_rcnn", size, "--keep-freed")
    if "engines" in args.parts:
        engines(out, *(("van_pico", TINY, "64x64", 1) if args.tiny else ("van_b1", HEADS, "800x1280", 5)))
    if "small" in args.parts:
        small(out, *(([("van_pico", LIGHTER)], [320], 1) if args.tiny else (SMALL, [320, 416, 640], 15)))


if __name__ == "__main__":
    main()
