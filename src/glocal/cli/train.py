"""Train a model on a folder of images or on an embedded set.

The output folder receives model.safetensors (the weights of the epoch with the best validation, with class names
and preprocessing: all that `glocal eval` and `glocal predict` need; with --ema, model.raw.safetensors has the weights
that were not averaged), last.ckpt (the state to go on from), metrics.csv, config.yaml (these options, for --config),
summary.json and train.log (files that could not be read).

A run that was stopped, by whatever, is continued by the same command, or by `glocal train --output DIR --resume`.
"""

import shlex
from pathlib import Path

from glocal.cli.output import console
from glocal.tasks.registry import find_task
from glocal.terminal import facts
from glocal.training.config import LoopOptions, find_recipe, recipe_names, train_config  # noqa: F401 (--recipe)
from glocal.training.run_folder import check_unchanged, find_run  # noqa: F401 (--resume)

POSITIONAL = {"data": "?"}


def __getattr__(name: str):
    if name == "CONFIG":  # later than this module, as tasks may be registered meanwhile
        return train_config()
    raise AttributeError(name)


def check_untrusted(config: LoopOptions, files: dict[str, Path]) -> None:
    """Raise ValueError for arguments of the model that a file may not give."""
    if config.model_args and "model_args" in files:
        from glocal.training.train import check_model_args

        check_model_args(config, files["model_args"])


def _measured(result) -> dict[str, str]:
    """The measures of the validation: the loss in a row of its own, the others together."""
    found = [measure for measure in find_task(result.task).measures if measure.key in result.metrics]
    losses = {f"validation {one.title}": one.shown(result.metrics[one.key]) for one in found if one.key == "loss"}
    others = [one for one in found if one.key != "loss"]
    titles, values = (one.title for one in others), (one.shown(result.metrics[one.key]) for one in others)
    return {" / ".join(titles): " / ".join(values), **losses}


def run(config: LoopOptions) -> int:
    from glocal.training.train import show_batch, train

    if config.show_batch is not None:
        screen = console()
        show_batch(config, screen)
        screen.print(f"Saved in {config.show_batch}; nothing was trained", soft_wrap=True)
        return 0
    if config.resume:  # what the command says is told from what it leaves out here only
        check_unchanged(config)
    screen = console()
    result = train(config, screen)
    best = result.metrics
    rows = {
        **_measured(result),
        "best epoch": f"{best['epoch']} of {result.epochs}",
        "images": " + ".join(f"{count:,} {split}" for split, count in result.images.items()),
        "parameters": f"{result.parameters:,}",
        "training speed": f"{result.images_per_second:,.0f} images/s",
        "time": f"{result.seconds:.0f} s",
    }
    if result.unreadable:
        rows["unreadable files"] = f"{len(result.unreadable)}, named in {result.output / 'train.log'}"
    screen.print(facts(f"{result.model} on {result.data}", rows))
    names = ("model.safetensors", "model.raw.safetensors", "last.ckpt", "metrics.csv", "config.yaml", "summary.json")
    saved = ", ".join(name for name in names if (result.output / name).exists())
    screen.print(f"Saved in {result.output}: {saved}", soft_wrap=True)
    images = "IMAGE…"
    if result.samples:
        images = result.samples[0].parent / "*.png"
        screen.print(f"{len(result.samples)} held-out images to predict: {images}", soft_wrap=True, highlight=False)
    screen.print(
        f"Next: glocal predict {images} --checkpoint {shlex.quote(str(result.output))}", soft_wrap=True, highlight=False
    )
    return 0
