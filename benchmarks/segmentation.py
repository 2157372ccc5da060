"""Speed and memory of backbones with heads of segmentation on a CPU: training, inference, a large image, `glocal eval`.

    python benchmarks/segmentation.py [OUT] [--tiny]

Writes JSON files into OUT (benchmarks/results/segmentation-<date>): train and infer as `glocal bench` writes them,
memory as `peak_memory.py` prints it, a process for each model, and eval, images per hour and core. Takes about 25
minutes on two cores; nothing else may run meanwhile. With --tiny it takes seconds, to see that it works; its figures
say nothing.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from datetime import date
from pathlib import Path

REMEMBERED = ["convnext_tiny", "transnext_tiny", "transxnet_t", "van_b1"]  # models whose memory is measured
MODELS = ["transxnet_t", "transnext_tiny", "conv2former_t", "hat_net_tiny", "van_b1", "swin_tiny_patch4_window7_224"]
EVALUATED = {"upernet": "transnext_tiny", "semantic_fpn": "van_b2"}
IMAGES = 16


def environment() -> dict[str, str]:
    """That of this process, with this checkout's package first."""
    source = str(Path(__file__).resolve().parents[1] / "src")
    return os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, [source, os.environ.get("PYTHONPATH")]))}


def run(*args: str) -> None:
    """A command of glocal in a process of its own."""
    if subprocess.run([sys.executable, "-m", "glocal", *args], env=environment()).returncode:
        print("not whole:", *args, file=sys.stderr)


def memory(out: Path, models: list[str], head: str, size: str, *options: str) -> None:
    """The most memory of a training step, each model in a process of its own."""
    script, found = str(Path(__file__).with_name("peak_memory.py")), []
    for model in models:
        command = [sys.executable, script, model, "--head", head, "--size", size, *options]
        done = subprocess.run(command, env=environment(), stdout=subprocess.PIPE, text=True)
        if done.returncode:
            print("not whole:", *command[1:], file=sys.stderr)
        else:
            found.append(json.loads(done.stdout))
    (out / "memory.json").write_text(json.dumps(found, indent=1) + "\n")


def bench(out: Path, name: str, models: list[str], *options: str) -> None:
    run("bench", *models, "--task", "segmentation", "--device", "cpu", "--json", str(out / f"{name}.json"), *options)


def draw(folder: Path, count: int, side: int, classes: int) -> None:
    """Photographs of noise with masks of blocks, and the names of the classes."""
    import numpy as np
    from PIL import Image

    random = np.random.RandomState(0)
    for name in ("images", "masks"):
        (folder / name).mkdir(parents=True)
    for number in range(count):
        blocks = random.randint(0, classes, (side // 32, side // 32), np.uint8)
        Image.fromarray(blocks.repeat(32, 0).repeat(32, 1)).save(folder / "masks" / f"{number}.png")
        noise = random.randint(0, 256, (side, side, 3), np.uint8)
        Image.fromarray(noise).save(folder / "images" / f"{number}.jpg")
    (folder / "classes.txt").write_text("\n".join(map(str, range(classes))) + "\n")


def untrained(folder: Path, head: str, backbone: str, side: int, classes: int) -> None:
    """The folder of a run that trained nothing."""
    from glocal.tasks import find_task
    from glocal.tasks.checkpoint import CheckpointInfo, save_checkpoint
    from glocal.training.config import train_config

    task, names = find_task("segmentation"), [str(number) for number in range(classes)]
    model = task.model(task.backbone(backbone, names), names, head=head)
    preprocessing = task.preprocessing(model, train_config(task)(head=head), side).to_dict()
    info = CheckpointInfo(backbone, names, preprocessing, task=task.name, task_args={"head": head})
    folder.mkdir()
    save_checkpoint(folder / "model.safetensors", model.state_dict(), info)


def evaluation(out: Path, models: dict[str, str], count: int, side: int, classes: int) -> None:
    """Images per hour and core of `glocal eval`, with reading and measuring, for a model of each head."""
    cores, found = len(os.sched_getaffinity(0)), []
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "data"
        draw(data, count, side, classes)
        for head, backbone in models.items():
            trained, file = Path(folder) / head, Path(folder) / f"{head}.json"
            untrained(trained, head, backbone, side, classes)
            run("eval", str(data), "--checkpoint", str(trained), "--split", "all", "--json", str(file))
            measured = json.loads(file.read_text())
            rate = measured["images_per_second"] * 3600 / cores
            found.append({"head": head, "backbone": backbone, "images": measured["images"], "per_hour_and_core": rate})
    (out / "eval.json").write_text(json.dumps({"side": side, "cores": cores, "models": found}, indent=1) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", nargs="?", default=f"benchmarks/results/segmentation-{date.today()}")
    parser.add_argument("--tiny", action="store_true")
    args = parser.parse_args()
    out = Path(args.out)
    out.mkdir(parents=True, exist_ok=True)
    if args.tiny:
        tiny = ["--baseline", "test_mambaout", "--head", "semantic_fpn", "--sizes", "64", "--rounds", "1"]
        bench(out, "train", ["van_pico"], "--mode", "train", "--backbones", *tiny)
        bench(out, "infer", ["van_pico"], "--backbones", "--fuse", *tiny)
        memory(out, ["van_pico"], "semantic_fpn", "64")
        evaluation(out, {"semantic_fpn": "van_pico"}, 4, 64, 5)
        return
    bench(out, "train", MODELS, "--mode", "train", "--backbones", "--rounds", "2")
    bench(out, "infer", MODELS, "--backbones", "--fuse", "--rounds", "4")
    memory(out, REMEMBERED, "upernet", "1024")
    evaluation(out, EVALUATED, IMAGES, 512, 150)


if __name__ == "__main__":
    main()
