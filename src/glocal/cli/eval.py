"""Measure a trained model: top-1 and top-5 accuracy, loss, images per second.

Of a data set with `train` and `val`, `val` is measured. Of a folder without them, all images are; unless it is the
folder of the training, split by `glocal train` itself: then the images that it held out are. --split chooses otherwise.
"""

from functools import partial

from glocal.cli.output import console, facts, track
from glocal.training.eval_config import EvalConfig

CONFIG = EvalConfig
POSITIONAL = {"data": "?"}


def run(config: EvalConfig) -> int:
    from glocal.training.evaluate import evaluate

    result = evaluate(config, partial(track, unit="batches"))
    rows = {
        "top-1": f"{result.top1:.2f} %",
        "top-5": f"{result.top5:.2f} %",
        "loss": f"{result.loss:.4f}",
        "images": f"{result.images:,} ({result.split})",
        "unreadable files": str(len(result.unread)),
        "input size": "×".join(map(str, result.img_size)),
        "speed": f"{result.images_per_second:,.0f} images/s on {result.device}",
    }
    screen = console()
    screen.print(facts(f"{result.model} on {result.data}", rows))
    if config.json is not None:
        screen.print(f"Saved in {config.json}", soft_wrap=True)
    return 0
