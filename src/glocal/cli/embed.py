"""Write the features of images before the classifier as Parquet files, for search, clustering or another classifier.

There is one file per 10,000 image files, per WebDataset shard or per Parquet file of images. A file is written whole
or not at all, and the same command goes on where it was stopped. Images that cannot be read are rows with the reason;
the exit code is then 1.

With --ray a cluster computes them; its machines need the inputs, the checkpoint and the output folder under the same
paths.
"""

import sys

from glocal.cli.output import console, track
from glocal.deploy.config import EmbedConfig, PredictConfig

CONFIG = EmbedConfig
POSITIONAL = {"images": "+"}


def run(config: EmbedConfig) -> int:
    return write(config)


def write(config: EmbedConfig | PredictConfig) -> int:
    """Write Parquet files, or the file that `config.output` names; the exit code."""
    from glocal.wording import counted

    if getattr(config, "to_table", False):
        from glocal.deploy.rows import write_table

        results = write_table(config, track)
        where = ""
    else:
        from glocal.deploy.bulk import write_results

        results = write_results(config, track)
        where = f" in {counted(results.files, 'file')}"
    console().print(f"{counted(results.images, 'image')}{where} in {config.output}", soft_wrap=True)
    if results.unreadable:
        unreadable = counted(results.unreadable, "image")
        print(f"error: {unreadable} could not be read: the column error says why", file=sys.stderr)
    return 1 if results.unreadable else 0
