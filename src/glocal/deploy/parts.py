"""Writing the Parquet file of a shard of the inputs."""

import json
import os
import socket
from collections.abc import Iterator
from functools import partial
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from glocal.data.image import set_strict
from glocal.data.inputs import Shard
from glocal.deploy.config import EmbedConfig, PredictConfig
from glocal.deploy.rows import Track, embedding_row, result_row
from glocal.errors import MissingExtraError
from glocal.files import write_atomically
from glocal.tasks.task import Task

try:
    import pyarrow
    from pyarrow import parquet
except ImportError:
    raise MissingExtraError("Parquet files need pyarrow: pip install 'glocal[parquet]'") from None

if TYPE_CHECKING:
    from glocal.deploy.predictor import Predictor

ROWS = 1000  # rows of a row group, which are in memory until they are written


def write_shard(
    predictor: "Predictor",
    config: PredictConfig | EmbedConfig,
    shard: Shard,
    track: Track = lambda items, total, unit: items,
    unit: str = "images",
) -> None:
    """Write the file of a shard, under a temporary name until it is complete."""
    set_strict(config.strict)
    images = shard.images(config.image_column, config.every)
    embed = isinstance(config, EmbedConfig)
    task = predictor.trained.task
    results = predictor.embed(images) if embed else predictor.stream(images, config.top_k)
    row = partial(embedding_row if embed else partial(result_row, task), with_videos=shard.with_videos)
    rows = map(row, track(results, shard.count, unit))
    about = {"model": predictor.trained.name, "version": version("glocal")}
    columns = _embedding_columns(predictor.embedding_size) if embed else _columns(task)
    if shard.with_videos:
        columns[1:1] = [("frame", pyarrow.int64()), ("seconds", pyarrow.float64())]
    schema = pyarrow.schema(columns, {"glocal": json.dumps(about)})
    path = Path(config.output) / part_name(shard.number)
    temporary = path.with_name(temporary_name(shard.number))
    write_atomically(path, lambda file: _write_rows(file, rows, schema), temporary)


def part_name(number: int) -> str:
    """The file name of a shard."""
    return f"part-{number:05}.parquet"


def temporary_name(number: int, process: str | None = None) -> str:
    """The file name of a shard while a process writes it. process: by default, this process."""
    return f".{part_name(number)}.{process or f'{socket.gethostname()}-{os.getpid()}'}.tmp"


def _columns(task: Task) -> list:
    """The task's fields as columns of Parquet, between the source and the error."""
    kinds = {str: pyarrow.string(), int: pyarrow.int64(), float: pyarrow.float32()}
    for _ in range(2):  # lists, and lists of lists
        kinds |= {list[kind]: pyarrow.list_(column) for kind, column in kinds.items()}
    fields = [(name, kinds[kind]) for name, kind in task.fields.items()]
    return [("source", pyarrow.string()), *fields, ("error", pyarrow.string())]


def _embedding_columns(size: int) -> list:
    vector = pyarrow.list_(pyarrow.float32(), size)
    return [("source", pyarrow.string()), ("embedding", vector), ("error", pyarrow.string())]


def _write_rows(file: BinaryIO, rows: Iterator[dict], schema: pyarrow.Schema) -> None:
    with parquet.ParquetWriter(file, schema) as writer:
        while group := list(islice(rows, ROWS)):
            writer.write_table(pyarrow.Table.from_pylist(group, schema))
