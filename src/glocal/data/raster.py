"""Rasters: TIFF files of satellites, drones and scanners, with any number of bands, read by rasterio in whole or part.

A raster becomes an array (H, W, C) of the file's own type, 8 or 16 bits or floating point. Where pixels hold no data,
it is a masked array. GDAL, which does the work, may open TIFF files alone, from the disk alone.
"""

import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
from PIL import Image

from glocal.data.bands import WHITE, Bands
from glocal.data.image import UnreadableImageError
from glocal.errors import InvalidValueError, MissingExtraError
from glocal.wording import counted, one_line, shown

ENDINGS = (".tif", ".tiff")
MOST_BANDS = 64  # as a model may have channels
MOST_PIXELS = 2**31 - 1  # of a file that is read in parts
MOST_BYTES = 2**30  # of pixels that are read at once, and of a block, which GDAL reads whole
BLOCK = 512  # pixels of a side of the blocks in a file that is written
CHECKED = 8  # files of a data set that are opened to find its bands
MEASURED = 64  # images from which the mean and the spread of each band are measured
MEASURED_SIDE = 512  # pixels of each, at most
# GDAL looks for no other files beside the image, and writes none.
SETTINGS = {"GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR", "GDAL_PAM_ENABLED": "NO", "GDAL_CACHEMAX": 128}  # MB


@cache
def rasterio() -> Any:
    """The package rasterio; MissingExtraError if it is not installed."""
    try:
        import rasterio
        import rasterio.errors
        import rasterio.features
        import rasterio.shutil
        import rasterio.warp
    except ImportError:
        raise MissingExtraError("this needs rasterio: pip install 'glocal[geo]'") from None
    warnings.filterwarnings("ignore", category=rasterio.errors.NotGeoreferencedWarning)
    return rasterio


def is_installed() -> bool:
    return find_spec("rasterio") is not None


def is_tiff(path: Any) -> bool:
    """Whether a path ends as that of a TIFF file."""
    return isinstance(path, (str, Path)) and str(path).lower().endswith(ENDINGS)


@contextmanager
def opened(path: str) -> Iterator[Any]:
    """A TIFF file on the disk as rasterio's dataset, its head checked; raises UnreadableImageError."""
    if path.startswith("/vsi") or "://" in path:
        raise UnreadableImageError(path, "only files on the disk are read")
    library, file = rasterio(), os.path.abspath(path)
    if not os.path.isfile(file):
        raise UnreadableImageError(path, "no such file")
    with _broken(path), library.Env(**SETTINGS):
        dataset = library.open(file, driver="GTiff", sharing=False)
    with dataset:
        _check(path, dataset)
        yield dataset


@contextmanager
def _broken(path: str) -> Iterator[None]:
    """Raise UnreadableImageError for GDAL's errors about a file."""
    errors = rasterio().errors
    try:
        yield
    except (errors.RasterioError, errors.RasterioIOError, MemoryError) as error:
        reason = error.__cause__ or error  # GDAL's own words, if rasterio refers to them
        raise UnreadableImageError(path, f"broken TIFF ({one_line(reason) or 'no memory'})") from None


def _check(path: str, dataset: Any) -> None:
    """Raise UnreadableImageError for a head that claims more than is read."""
    if dataset.width * dataset.height > MOST_PIXELS:
        raise UnreadableImageError(path, f"{dataset.width:,}×{dataset.height:,} pixels are more than is read")
    rows, columns = dataset.block_shapes[0]
    together = dataset.count if str(dataset.profile.get("interleave")) == "pixel" else 1
    if rows * columns * together * np.dtype(dataset.dtypes[0]).itemsize > MOST_BYTES:
        raise UnreadableImageError(path, f"its blocks, of {columns:,}×{rows:,} pixels, are more than is read at once")


def _without_alpha(dataset: Any) -> list[int]:
    """The numbers of a file's bands, from 1, apart from those that say where there are pixels."""
    alpha = rasterio().enums.ColorInterp.alpha
    return [number for number, kind in enumerate(dataset.colorinterp, 1) if kind != alpha]


def _type_of(path: str, dataset: Any, numbers: Sequence[int]) -> str:
    """The type of a file's pixels, one of WHITE; raises UnreadableImageError for others."""
    if max(numbers) > dataset.count:
        raise UnreadableImageError(
            path, f"the file has {counted(dataset.count, 'band')}, and band {max(numbers)} is asked for"
        )
    types = sorted({dataset.dtypes[number - 1] for number in numbers})
    kind = "float32" if types == ["float64"] else types[0]
    if len(types) > 1 or kind not in WHITE:
        raise UnreadableImageError(path, f"pixels of the type {' and '.join(types)}; {', '.join(WHITE)} are read")
    return kind


@dataclass(frozen=True)
class Raster:
    """An image in a TIFF file. path: of the file. bands: those to read, and the type that their pixels must have."""

    path: str
    bands: Bands

    def __str__(self) -> str:
        return self.path

    def load(self) -> np.ndarray:
        """The pixels (H, W, C), masked where they hold no data; raises UnreadableImageError."""
        with Scene(self.path, self.bands) as scene:
            size = scene.width * scene.height * len(self.bands.numbers) * np.dtype(self.bands.pixels).itemsize
            if size > MOST_BYTES:
                raise UnreadableImageError(self.path, f"{size / 2**30:.1f} GiB of pixels: predict --tile reads parts")
            return scene.crop((0, 0, scene.width, scene.height))


class Scene:
    """A TIFF file that stays open, whose parts are read when they are needed. Threads may share it.

    >>> with Scene("scene.tif", Bands((1, 2, 3, 8), "uint16")) as scene:
    ...     part = scene.crop((0, 0, 512, 512))
    """

    def __init__(self, path: str, bands: Bands):
        self.path, self.bands = path, bands
        self._lock = Lock()

    def __enter__(self) -> "Scene":
        self._opened = opened(self.path)
        self._dataset = self._opened.__enter__()
        try:
            kind = _type_of(self.path, self._dataset, self.bands.numbers)
            if kind != self.bands.pixels:
                raise UnreadableImageError(self.path, f"pixels of the type {kind}, expected {self.bands.pixels}")
        except UnreadableImageError:
            self.__exit__()
            raise
        self.width, self.height = self._dataset.width, self._dataset.height
        return self

    def __exit__(self, *error: object) -> None:
        with self._lock:  # a thread may still be reading: GDAL would crash
            self._dataset = None
            self._opened.__exit__(None, None, None)

    @property
    def size(self) -> tuple[int, int]:
        """(width, height), as Pillow's images have it."""
        return self.width, self.height

    def crop(self, box: tuple[int, int, int, int]) -> np.ndarray:
        """The pixels (H, W, C) in (left, top, right, bottom), masked where they hold no data."""
        left, top, right, bottom = box
        return self._read(
            (bottom - top, right - left), rasterio().windows.Window(left, top, right - left, bottom - top)
        )

    def reduced(self, side: int) -> np.ndarray:
        """Every n-th pixel, so that neither side has more than `side`."""
        step = max(1, -(-max(self.size) // side))
        return self._read((max(1, self.height // step), max(1, self.width // step)), None)

    def _read(self, size: tuple[int, int], window: Any) -> np.ndarray:
        numbers, shape = list(self.bands.numbers), (len(self.bands.numbers), *size)
        with _broken(self.path), self._lock, rasterio().Env(**SETTINGS):
            if self._dataset is None:
                raise UnreadableImageError(self.path, "the file was closed")
            pixels = self._dataset.read(numbers, window=window, out_shape=shape, out_dtype=self.bands.pixels)
            valid = self._dataset.read_masks(numbers, window=window, out_shape=shape).any(0)
        if pixels.dtype.kind == "f":
            valid &= np.isfinite(pixels).all(0)
        pixels = np.ascontiguousarray(pixels.transpose(1, 2, 0))
        if valid.all():
            return pixels
        return np.ma.MaskedArray(pixels, np.repeat(~valid[..., None], len(numbers), 2))


def without_data(dataset: Any, numbers: Sequence[int] | None, top: int, bottom: int) -> np.ndarray:
    """Whether each pixel of some rows of an open file holds no data, (rows, W).

    numbers: of the bands that are looked at; None: all but those that say where there are pixels.
    """
    numbers = list(numbers or _without_alpha(dataset))
    window = rasterio().windows.Window(0, top, dataset.width, bottom - top)
    with rasterio().Env(**SETTINGS):
        void = ~dataset.read_masks(numbers, window=window).any(0)
        if np.dtype(dataset.dtypes[numbers[0] - 1]).kind == "f":
            void |= ~np.isfinite(dataset.read(numbers, window=window)).all(0)
    return void


@contextmanager
def created(path: Path, **about: Any) -> Iterator[Any]:
    """A new TIFF file of one band in compressed blocks, open for writing. about: as rasterio has it."""
    about = {"driver": "GTiff", "count": 1, "tiled": True, "blockxsize": BLOCK, "blockysize": BLOCK} | about
    with rasterio().Env(**SETTINGS):
        dataset = rasterio().open(os.path.abspath(path), "w", compress="deflate", zlevel=1, BIGTIFF="IF_SAFER", **about)
    with dataset:
        yield dataset


def copy_as_cog(source: Path, target: Path) -> None:
    """Copy a file of labels to a Cloud Optimized GeoTIFF: compressed blocks, and copies of lower resolution."""
    options = {"COMPRESS": "DEFLATE", "BLOCKSIZE": BLOCK, "OVERVIEW_RESAMPLING": "NEAREST", "BIGTIFF": "IF_SAFER"}
    with rasterio().Env(**SETTINGS):
        rasterio().shutil.copy(os.path.abspath(source), os.path.abspath(target), driver="COG", **options)


def bands_of_files(files: Sequence[str], given: Any = None) -> Bands | None:
    """Which bands of a data set's images to read, by the first files that can be opened; None: they are RGB images.

    given: the numbers of bands, from 1, that the user asks for; without it, all bands of files that no RGB image can
    stand for: more than three bands, two, or three of more than 8 bits. Raises ValueError for wrong numbers,
    ImportError if rasterio is needed and not installed.
    """
    if given is not None:
        _check_numbers(given)
        rasterio()
    tiffs = [file for file in files if is_tiff(file)]
    if given is None and not (tiffs and is_installed()):
        return None
    for file in tiffs[:CHECKED]:
        try:
            with opened(file) as dataset:
                numbers = given or _without_alpha(dataset)
                if given is None and _is_rgb(dataset, numbers):
                    return None
                if len(numbers) > MOST_BANDS:
                    raise InvalidValueError(
                        f"{file} has {len(numbers)} bands, and a model takes {MOST_BANDS}: choose some of them with "
                        "--data-args '{bands: [1, 2, 3]}'"
                    )
                return Bands(tuple(numbers), _type_of(file, dataset, numbers))
        except UnreadableImageError as error:
            first = error
    if given is None:
        return None
    raise InvalidValueError(f"bands: {first if tiffs else 'none of the images is a TIFF file'}")


def _check_numbers(given: Any) -> None:
    fits = isinstance(given, Sequence) and not isinstance(given, str) and 0 < len(given) <= MOST_BANDS
    if not fits or any(type(number) is not int or not 0 < number < 2**16 for number in given):
        raise InvalidValueError(f"bands must be numbers of bands from 1, such as [1, 2, 3, 8], got {shown(given)}")


def _is_rgb(dataset: Any, numbers: Sequence[int]) -> bool:
    """Whether Pillow reads all of a file: grey, a palette, 8-bit RGB, CMYK."""
    if len(numbers) == 1:
        return True
    types = {dataset.dtypes[number - 1] for number in numbers}
    separated = rasterio().enums.ColorInterp.cyan in dataset.colorinterp
    return types == {"uint8"} and (len(numbers) == 3 or (len(numbers) == 4 and separated))


def scene_bands(path: Any) -> Bands | None:
    """The bands of a georeferenced 8-bit RGB file, which is read in parts; None for all others."""
    if not is_tiff(path) or not is_installed():
        return None
    try:
        with opened(str(path)) as dataset:
            numbers = _without_alpha(dataset)
            is_rgb = len(numbers) == 3 and {dataset.dtypes[number - 1] for number in numbers} == {"uint8"}
            return Bands(tuple(numbers), "uint8") if is_rgb and dataset.crs is not None else None
    except UnreadableImageError:
        return None


@contextmanager
def georeferenced(label: str, path: str) -> Iterator[Any]:
    """A file that is open as `opened` has it; ValueError, which begins with a label, if it has no coordinate system."""
    if not is_tiff(path):
        raise InvalidValueError(f"{label}: {path} is no TIFF file, so that it has no coordinates")
    with opened(path) as dataset:
        if dataset.crs is None:
            raise InvalidValueError(
                f"{label}: {path} has no coordinate system (CRS): --save labels or polygons need none"
            )
        yield dataset


def check_georeferenced(label: str, files: Sequence[str]) -> None:
    """Raise ValueError, which begins with a label, if one of some files can be read and has no coordinate system."""
    rasterio()
    for file in files:
        with suppress(UnreadableImageError), georeferenced(label, file):  # it is reported when its turn comes
            pass


def as_picture(pixels: np.ndarray) -> Image.Image:
    """The first three bands of (H, W, C) pixels as red, green and blue, or the first as grey, for people.

    Of each, the values between the 2nd and the 98th percentile are spread over all levels. Pixels without data are
    black.
    """
    valid = ~np.ma.getmaskarray(pixels).any(2)
    shown = np.ma.getdata(pixels)[..., : 3 if pixels.shape[2] >= 3 else 1].astype(np.float32)
    levels = np.zeros(shown.shape, np.uint8)
    if valid.any():
        low, high = np.percentile(shown[valid], (2, 98), axis=0)
        spread = (shown - low) / np.maximum(high - low, 1e-6)
        levels[valid] = (255 * spread[valid].clip(0, 1)).astype(np.uint8)
    return Image.fromarray(levels.squeeze(2) if levels.shape[2] == 1 else levels).convert("RGB")


def size_of(path: str) -> tuple[int, int]:
    """(width, height) of a TIFF file; raises UnreadableImageError."""
    with opened(path) as dataset:
        return dataset.width, dataset.height


def measure(rasters: Sequence[Raster], seed: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """The mean and the standard deviation of each band of some images, of pixels in 0…1 as `WHITE` has it.

    At most MEASURED images are drawn by the seed, and at most MEASURED_SIDE² pixels are read of each. Pixels without
    data do not count; a constant band has the deviation 1. ValueError if no image can be read.
    """
    chosen = np.random.RandomState(seed).permutation(len(rasters))[:MEASURED]
    count, total, squares, reason = 0, 0.0, 0.0, "there are none"
    for place in sorted(chosen):
        raster = rasters[place]
        try:
            with Scene(raster.path, raster.bands) as scene:
                pixels = scene.reduced(MEASURED_SIDE)
        except UnreadableImageError as error:
            reason = error
            continue
        valid = ~np.ma.getmaskarray(pixels).any(2)
        values = np.ma.getdata(pixels)[valid].astype(np.float64) / WHITE[raster.bands.pixels]
        count, total, squares = count + len(values), total + values.sum(0), squares + (values**2).sum(0)
    if not count:
        raise InvalidValueError(f"no pixels to measure the mean of each band: {reason}")
    mean = total / count
    std = np.sqrt(np.maximum(squares / count - mean**2, 0))
    std = np.where(std < 1e-6, 1.0, std)
    if max(np.abs(mean).max(), std.max()) > 1e4:
        raise InvalidValueError(f"pixels of {np.abs(mean).max():g} in the mean: scale them to about 1")
    return tuple(map(float, mean)), tuple(map(float, std))
