"""Images without labels, many of them: files, videos, WebDataset shards and Parquet files, in shards of work."""

import hashlib
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from glocal.data.formats.shards import expand_shards
from glocal.data.formats.shards import matches as is_shards
from glocal.data.image import StoredImage, find_images, images_below, read_image
from glocal.data.video import frames, is_video, library
from glocal.data.walk import entries
from glocal.errors import InvalidValueError, MissingExtraError
from glocal.wording import one_line, quoted

TAR = (".tar", ".tar.gz", ".tgz")
TABLE = ".parquet"
ROWS = 64  # of a Parquet file that are read at a time


@dataclass(frozen=True)
class Shard:
    """A numbered part of the inputs: image files, or one video, WebDataset shard or Parquet file.

    count: images in it; None for a video and a WebDataset shard, which are not read for it. with_videos: whether any of
    the inputs is a video.
    """

    number: int
    files: list[str]
    count: int | None = None
    with_videos: bool = False

    @property
    def stored(self) -> bool:
        """Whether its images lie in a WebDataset shard or a Parquet file."""
        return _is_tar(self.files[0]) or self.files[0].lower().endswith(TABLE)

    def images(self, column: str, every: int = 1) -> Iterator[str | StoredImage]:
        """The images in order, not yet read; those of a Parquet file are in `column`. every: see `video.frames`."""
        first = self.files[0]
        if is_video(first):
            return frames(first, every)
        if _is_tar(first):
            from glocal.data.shards import images_in_shard

            return images_in_shard(first)
        return _images_in_table(first, column) if first.lower().endswith(TABLE) else iter(self.files)


def plan(sources: list[str], shard_size: int, column: str) -> list[Shard]:
    """Cut inputs into shards.

    Image files, folders of them and glob patterns give shards of `shard_size` files; every video, every WebDataset
    shard and every Parquet file is a shard by itself. A folder with .tar or .parquet files in it stands for these.

    Raises FileNotFoundError or UnreadableImageError for a source that stands for nothing, ValueError for a Parquet file
    without images in `column` and for a folder that holds both kinds, ImportError where an extra is missing.
    """
    images: dict[str, None] = {}
    stored: dict[str, None] = {}
    for source in map(str, sources):
        for file in _files(source):
            if _is_tar(file):
                stored.update(dict.fromkeys(expand_shards(file)))
            else:
                (stored if file.lower().endswith(TABLE) or is_video(file) else images)[file] = None
    files = list(images)
    parts = [files[first : first + shard_size] for first in range(0, len(files), shard_size)]
    counted = [(part, len(part)) for part in parts]
    counted += [([file], None if _is_tar(file) or is_video(file) else _rows(file, column)) for file in stored]
    with_videos = has_videos(stored)
    return [Shard(number, *part, with_videos) for number, part in enumerate(counted)]


def expanded(files: Iterable[str], every: int) -> Iterator[str | StoredImage]:
    """The files, with the frames of each video in its place. every: see `video.frames`."""
    for file in files:
        if is_video(file):
            yield from frames(file, every)
        else:
            yield file


def has_videos(files: Iterable[str]) -> bool:
    """Whether any of the files is a video; ImportError if it is, without the extra video."""
    found = any(map(is_video, files))
    if found:
        library()
    return found


def inputs_key(shards: list[Shard]) -> str:
    """Stands for the inputs: the names of the files in their order, and the sizes of those that hold many images."""
    digest = hashlib.sha256()
    for shard in shards:
        for file in shard.files:
            sized = _is_tar(file) or is_video(file) or file.lower().endswith(TABLE)
            size = os.path.getsize(file) if sized and os.path.isfile(file) else ""
            digest.update(f"{shard.number}\t{file}\t{size}\n".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()[:16]


def _is_tar(file: str) -> bool:
    return file.lower().endswith(TAR) or "://" in file or file.startswith(("pipe:", "file:"))


def _files(source: str) -> list[str]:
    """The files that a source stands for, or the pattern or address that it is."""
    if os.path.isdir(source):
        inside = [file.path for file in entries(Path(source)) if file.name.lower().endswith((*TAR, TABLE))]
        if inside and images_below(source)[0]:
            raise InvalidValueError(f"{source} holds images and {quoted(inside, 2)}: name the ones or the others")
        found = inside or find_images([source])
    else:
        found = [source] if is_shards(source) else find_images([source])
    if found == [source] and not os.path.isfile(source) and not is_shards(source):
        read_image(source)  # raises, with what is wrong
    return found


def _rows(path: str, column: str) -> int:
    """The rows of a Parquet file; ValueError for one without images in `column`."""
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        raise MissingExtraError("Parquet files need pyarrow: pip install 'glocal[parquet]'") from None

    try:
        with parquet.ParquetFile(path) as file:
            schema, rows = file.schema_arrow, file.metadata.num_rows
    except (OSError, pyarrow.ArrowException) as error:
        raise InvalidValueError(f"{path} cannot be read as a Parquet file: {one_line(error)}") from None
    if column not in schema.names:
        raise InvalidValueError(f"{path} has no column {column!r}: it has {quoted(schema.names)}; see --image-column")
    kind = schema.field(column).type
    inner = kind.field("bytes").type if pyarrow.types.is_struct(kind) and kind.get_field_index("bytes") >= 0 else kind
    if not (pyarrow.types.is_binary(inner) or pyarrow.types.is_large_binary(inner)):
        raise InvalidValueError(
            f"{path}: the column {column!r} holds {kind}, not images (bytes, or a struct with bytes)"
        )
    return rows


def _images_in_table(path: str, column: str) -> Iterator[StoredImage]:
    """The images in a Parquet file, in order; where it is broken, one at its end that says so."""
    import pyarrow
    from pyarrow import parquet

    row = 0
    try:
        with parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(ROWS, columns=[column]):
                for value in batch.column(0).to_pylist():
                    fields = value if isinstance(value, dict) else {"bytes": value}
                    yield StoredImage(f"{path}: row {row}", fields["bytes"], fields.get("path"))
                    row += 1
    except (OSError, pyarrow.ArrowException) as error:
        yield StoredImage(path, reason=f"the rows from {row} on cannot be read ({one_line(error)})")
