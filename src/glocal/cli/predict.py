"""Say what is on images: for a classifier, the most probable classes of each.

Files that cannot be read are named on stderr, the others are predicted; the exit code is then 1.

With --output FILE.csv, .json or .jsonl the predictions become one file, with a row for every image; a CSV opens in a
spreadsheet, so a text in it that begins like a formula gets a ' before it.

With --save KIND=PLACE the predictions also become other files, of a kind that the model's task has.

With --output FOLDER the predictions become Parquet files: one per 10,000 image files, per WebDataset shard or per
Parquet file of images. A file is written whole or not at all, and the same command goes on where it was stopped.
With --ray a cluster computes them; its machines need the inputs, the checkpoint and the output folder under
the same paths.
"""

import sys
from contextlib import closing

from glocal.cli.embed import write
from glocal.cli.output import console, track
from glocal.deploy.config import PredictConfig
from glocal.terminal import Table
from glocal.wording import one_line

CONFIG = PredictConfig
POSITIONAL = {"images": "+"}


def run(config: PredictConfig) -> int:
    code = _show(config) if config.output is None else write(config)
    if config.pictures is not None:
        console().print(f"Pictures in {config.pictures}", soft_wrap=True)
    for kind, place in config.saved.items():
        console().print(f"Saved {kind} in {place}", soft_wrap=True)
    return code


def _show(config: PredictConfig) -> int:
    from glocal.data.image import find_images, set_strict
    from glocal.data.inputs import expanded
    from glocal.deploy.rows import check_videos, load_predictor, predicted
    from glocal.deploy.saving import check_places, writers_of

    set_strict(config.strict)
    check_places(config)
    images = find_images(config.images)
    with_videos = check_videos(config, images)
    predictor = load_predictor(config)
    table = Table("image", *predictor.trained.task.headings)
    table.columns[2].justify = "right"
    unreadable = 0
    writers = writers_of(config, predictor.trained.task)
    todo = expanded(images, config.every) if with_videos else images
    with closing(predicted(predictor, todo, config, writers, with_videos)) as predictions:
        for prediction in track(predictions, None if with_videos else len(images)):
            if prediction.error is not None:
                unreadable += 1
                print("error:", one_line(prediction.error), file=sys.stderr)
                continue
            first = prediction.source
            if prediction.seconds is not None:
                first += f" ({prediction.seconds:.2f} s)"
            for line in prediction.lines():
                table.add_row(first, line.text, line.value)
                first = ""
            table.add_section()
    if table.row_count:
        console().print(table)
    return 1 if unreadable else 0
