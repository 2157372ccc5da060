"""The Parquet file of one shard of the inputs, whole or not there."""

import json
import os
import socket
from collections.abc import Iterator
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from glocal.data.image import set_strict
from glocal.data.inputs import Shard
from glocal.deploy.config import EmbedConfig, PredictConfig
from glocal.deploy.results import Track, embedding_row, prediction_row
from glocal.errors import MissingExtraError
from glocal.files import write_atomically

try:
    import pyarrow
    from pyarrow import parquet
except ImportError:
    raise MissingExtraError("Parquet files need pyarrow: pip install 'glocal[parquet]'") from None

if TYPE_CHECKING:
    from glocal.deploy.predictor import Predictor

ROWS = 1000  # in a row group, and in memory before they are written
PREDICTION_COLUMNS = [
    ("source", pyarrow.string()),
    ("label", pyarrow.string()),
    ("labels", pyarrow.list_(pyarrow.string())),
    ("probabilities", pyarrow.list_(pyarrow.float32())),
    ("error", pyarrow.string()),
]


def write_shard(
    predictor: "Predictor",
    config: PredictConfig | EmbedConfig,
    shard: Shard,
    track: Track = lambda items, total, unit: items,
    unit: str = "images",
) -> None:
    """Write the file of one shard, under a temporary name until it is whole."""
    set_strict(config.strict)
    images = shard.images(config.image_column)
    embed = isinstance(config, EmbedConfig)
    results = predictor.embed(images) if embed else predictor.stream(images, config.top_k)
    rows = map(embedding_row if embed else prediction_row, track(results, shard.count, unit))
    about = {"model": predictor.classifier.name, "version": version("glocal")}
    columns = _embedding_columns(predictor.embedding_size) if embed else PREDICTION_COLUMNS
    schema = pyarrow.schema(columns, {"glocal": json.dumps(about)})
    path = Path(config.output) / part_name(shard.number)
    temporary = path.with_name(temporary_name(shard.number))
    write_atomically(path, lambda file: _write_rows(file, rows, schema), temporary)


def part_name(number: int) -> str:
    """The name of the file of a shard."""
    return f"part-{number:05}.parquet"


def temporary_name(number: int, process: str | None = None) -> str:
    """Its name while a process writes it, by default this one."""
    return f".{part_name(number)}.{process or f'{socket.gethostname()}-{os.getpid()}'}.tmp"


def _embedding_columns(size: int) -> list:
    vector = pyarrow.list_(pyarrow.float32(), size)
    return [("source", pyarrow.string()), ("embedding", vector), ("error", pyarrow.string())]


def _write_rows(file: BinaryIO, rows: Iterator[dict], schema: pyarrow.Schema) -> None:
    with parquet.ParquetWriter(file, schema) as writer:
        while group := list(islice(rows, ROWS)):
            writer.write_table(pyarrow.Table.from_pylist(group, schema))
