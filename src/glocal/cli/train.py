"""Train a classifier on a folder of images or on an embedded set.

The output folder receives model.safetensors (the weights of the epoch with the best validation top-1, with class names
and preprocessing: all that `glocal eval` and `glocal predict` need), last.ckpt (the state after the last epoch),
metrics.csv, config.yaml (these options, for --config) and train.log (files that could not be read).
"""

from glocal.cli.output import console, facts
from glocal.training.config import TrainConfig, find_recipe  # noqa: F401 (--recipe)

CONFIG = TrainConfig
POSITIONAL = {"data": "?"}


def run(config: TrainConfig) -> int:
    from glocal.training.train import train

    screen = console()
    result = train(config, screen)
    best = result.metrics
    rows = {
        "top-1 / top-5": f"{best['top1']:.2f} % / {best['top5']:.2f} %",
        "validation loss": f"{best['loss']:.4f}",
        "best epoch": f"{best['epoch']} of {config.epochs}",
        "images": " + ".join(f"{count:,} {split}" for split, count in result.images.items()),
        "parameters": f"{result.parameters:,}",
        "training speed": f"{result.images_per_second:,.0f} images/s",
        "time": f"{result.seconds:.0f} s",
    }
    if result.unread:
        rows["unreadable files"] = f"{len(result.unread)}, named in {result.output / 'train.log'}"
    screen.print(facts(f"{result.model} on {result.data}", rows))
    screen.print(f"Saved in {result.output}: model.safetensors, last.ckpt, metrics.csv, config.yaml", soft_wrap=True)
    images = "IMAGE…"
    if result.samples:
        images = result.samples[0].parent / "*.png"
        screen.print(f"{len(result.samples)} held-out images to predict: {images}", soft_wrap=True, highlight=False)
    screen.print(f"Next: glocal predict {images} --checkpoint {result.output}", soft_wrap=True, highlight=False)
    return 0
