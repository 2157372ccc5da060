"""Label maps where they lie on the Earth: GeoTIFF with the coordinates of the image, and GeoJSON in degrees.

Both read the image's file again, for its coordinate system and for the pixels that hold no data: these have no class.
Results are passed on, and none is kept.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from glocal.data.image import UnreadableImageError
from glocal.data.raster import copy_as_cog, created, georeferenced, rasterio, without_data
from glocal.errors import InvalidValueError
from glocal.files import numbered_name, written_atomically
from glocal.tasks.segmentation.result import Segmentation
from glocal.tasks.segmentation.writers import Entries, Results
from glocal.tasks.task import Trained
from glocal.wording import utf8

DEGREES = "EPSG:4326"  # longitude and latitude on WGS 84, as GeoJSON has it (RFC 7946)
DIGITS = 9  # after the decimal point, of degrees: 0.1 mm
ROWS = 2048  # of an image that are read at a time
TOGETHER = 256  # polygons that are converted at a time


def write_geotiff(results: Results, folder: Path, trained: Trained) -> Results:
    """A Cloud Optimized GeoTIFF per image: the numbers of the classes, with their colours, and their names as tags.

    Pixels without data are 255, or 65535 if there are more than 255 classes. Raises ValueError for an image without
    coordinates.
    """
    rasterio()
    for number, result in enumerate(results):
        if result.error is None:
            place = folder / numbered_name(number, result.source, ".tif")
            with TemporaryDirectory(prefix=".", dir=folder) as drafts:
                draft, compact = Path(drafts) / "draft.tif", Path(drafts) / "compact.tif"
                _write_labels(draft, result, trained)
                copy_as_cog(draft, compact)
                os.replace(compact, place)
        yield result


def void_value(classes: int) -> int:
    """The value of pixels without data among the numbers of `classes` classes."""
    return 255 if classes <= 255 else 65535


def _write_labels(path: Path, result: Segmentation, trained: Trained) -> None:
    height, width = result.labels.shape
    void = void_value(len(trained.class_names))
    kind = "uint8" if void == 255 else "uint16"
    with _source(result, "geotiff") as source:
        place = {"crs": source.crs, "transform": source.transform}
        with created(path, width=width, height=height, dtype=kind, nodata=void, **place) as file:
            if kind == "uint8":
                file.write_colormap(1, {number: (*color, 255) for number, color in enumerate(result.colors)})
            file.update_tags(1, **{f"CLASS_{number}": name for number, name in enumerate(trained.descriptions)})
            for top, bottom in _strips(height):
                labels = result.labels[top:bottom].astype(kind)
                labels[without_data(source, _numbers(trained), top, bottom)] = void
                file.write(labels, 1, window=rasterio().windows.Window(0, top, width, bottom - top))


def write_geojson(results: Results, path: Path, trained: Trained) -> Results:
    """A FeatureCollection of GeoJSON in longitude and latitude: a polygon for each connected area of a class.

    Raises ValueError for an image without a coordinate system, or whose coordinates have no place on the Earth.
    """
    rasterio()
    with written_atomically(path) as file:
        file.write(b'{"type": "FeatureCollection", "features": [')
        features = Entries(file)
        for result in results:
            if result.error is None:
                about = _properties(result)
                for number, geometry in _areas(result, trained):
                    features.add({"type": "Feature", "properties": about[number], "geometry": geometry})
            yield result
        file.write(b"\n]}\n")


def _properties(result: Segmentation) -> dict[int, dict]:
    """What GeoJSON says of the areas of each class: its name and number, and its share and confidence in the image."""
    facts = zip(result.numbers, result.classes, result.shares, result.confidences, strict=True)
    return {
        number: {
            "source": utf8(result.source),
            "class": name,
            "number": number,
            "share": share,
            "confidence": confidence,
        }
        for number, name, share, confidence in facts
    }


def _areas(result: Segmentation, trained: Trained) -> Iterator[tuple[int, dict]]:
    """The number of the class, and the polygon in degrees, of each connected area."""
    height, width = result.labels.shape
    with _source(result, "geojson") as source:
        valid = np.empty((height, width), bool)
        for top, bottom in _strips(height):
            valid[top:bottom] = ~without_data(source, _numbers(trained), top, bottom)
        crs, transform = source.crs, source.transform
    found = rasterio().features.shapes(result.labels, mask=valid, transform=transform)
    while several := list(islice(found, TOGETHER)):
        polygons = rasterio().warp.transform_geom(crs, DEGREES, [polygon for polygon, _ in several], precision=DIGITS)
        for polygon, (_, number) in zip(polygons, several, strict=True):
            rings = [_turned(ring, inner=place > 0) for place, ring in enumerate(polygon["coordinates"])]
            if not np.isfinite(np.concatenate(rings)).all():
                raise InvalidValueError(f"--save geojson: {result.source} has coordinates without a place on the Earth")
            yield int(number), {"type": "Polygon", "coordinates": rings}


def _turned(ring: list, inner: bool) -> list:
    """A closed ring, counterclockwise, or clockwise if it is an inner one, as RFC 7946 has it."""
    x, y = np.array(ring).T
    clockwise = float((x[:-1] * y[1:] - x[1:] * y[:-1]).sum()) < 0
    return list(ring) if clockwise == inner else list(ring)[::-1]


@contextmanager
def _source(result: Segmentation, kind: str) -> Iterator[Any]:
    """The open file of an image; ValueError if it has no coordinate system."""
    label = f"--save {kind}"
    try:
        with georeferenced(label, result.source or "an image from memory") as source:
            if source.shape != result.labels.shape:
                raise InvalidValueError(f"{label}: {result.source} is stored turned: save it upright")
            yield source
    except UnreadableImageError as error:
        raise InvalidValueError(f"{label}: {error}") from None


def _numbers(trained: Trained) -> tuple[int, ...] | None:
    """The bands that the model takes; None for RGB."""
    bands = trained.preprocessing.get("bands")
    return bands and tuple(bands["numbers"])


def _strips(height: int) -> Iterator[tuple[int, int]]:
    """(top, bottom) of rows that are read together."""
    for top in range(0, height, ROWS):
        yield top, min(top + ROWS, height)
