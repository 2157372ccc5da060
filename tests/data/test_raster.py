"""Rasters: bands of TIFF files as arrays, with the pixels that hold no data; hostile files in one line."""

import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import rasterio
import torch
from PIL import Image

from glocal.data import raster
from glocal.data.bands import Bands
from glocal.data.formats import mask_folders
from glocal.data.image import UnreadableImageError
from glocal.data.prepare import Prepare, to_tensor
from glocal.data.preprocessing import Preprocessing, Whole
from glocal.data.raster import Raster, Scene, bands_of_files, measure
from glocal.tasks.description import check_preprocessing

pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")


def write(path, pixels, **about):
    """A TIFF of pixels (C, H, W)."""
    count, height, width = pixels.shape
    about = {"driver": "GTiff", "count": count, "width": width, "height": height, "dtype": pixels.dtype, **about}
    with rasterio.open(path, "w", **about) as file:
        file.write(pixels)
    return str(path)


def pixels_of(kind, count=4, size=(9, 7), seed=0):
    random = np.random.RandomState(seed).random_sample((count, *size))
    return random.astype(kind) if kind == "float32" else (random * 250).astype(kind) + (300 if kind != "uint8" else 1)


@pytest.mark.parametrize("kind", ["uint8", "uint16", "int16", "float32"])
def test_pixels_in_the_files_own_type(tmp_path, kind):
    pixels = pixels_of(kind)
    found = Raster(write(tmp_path / "a.tif", pixels), Bands((4, 1), kind)).load()
    assert found.dtype == kind
    assert not isinstance(found, np.ma.MaskedArray)
    assert np.array_equal(found, pixels[[3, 0]].transpose(1, 2, 0))


def test_parts_are_those_of_the_whole(tmp_path):
    path, bands = write(tmp_path / "a.tif", pixels_of("uint16", size=(40, 30))), Bands((1, 2, 3, 4), "uint16")
    whole = Raster(path, bands).load()
    with Scene(path, bands) as scene:
        assert scene.size == (30, 40)
        assert np.array_equal(scene.crop((5, 10, 21, 33)), whole[10:33, 5:21])


def test_a_file_may_be_closed_while_threads_read_it(tmp_path):
    path = write(tmp_path / "a.tif", pixels_of("uint16", size=(900, 900)), compress="deflate")
    with ThreadPoolExecutor(4) as threads:
        with Scene(path, Bands((1, 2, 3, 4), "uint16")) as scene:
            parts = [threads.submit(scene.crop, (0, 0, 900, 900)) for _ in range(20)]
            parts[0].result()
        errors = [part.exception() for part in parts]
    assert isinstance(errors[-1], UnreadableImageError)
    assert "the file was closed" in str(errors[-1])


class TestPixelsWithoutData:
    def test_are_those_where_all_bands_have_the_value(self, tmp_path):
        pixels = pixels_of("uint16")
        pixels[:, 2, 3] = 0
        pixels[0, 5, 5] = 0  # dark in a single band
        found = Raster(write(tmp_path / "a.tif", pixels, nodata=0), Bands((1, 2, 3, 4), "uint16")).load()
        assert np.argwhere(found.mask.any(2)).tolist() == [[2, 3]]

    @pytest.mark.parametrize("value", [np.nan, np.inf])
    def test_are_those_with_a_value_that_is_no_number(self, tmp_path, value):
        pixels = pixels_of("float32")
        pixels[1, 2, 3] = value
        found = Raster(write(tmp_path / "a.tif", pixels), Bands((1, 2, 3, 4), "float32")).load()
        assert np.argwhere(found.mask.any(2)).tolist() == [[2, 3]]

    def test_are_the_mean_in_the_models_input(self, tmp_path):
        pixels = pixels_of("float32", count=2)
        pixels[:, :, :3] = np.nan
        bands = Bands((1, 2), "float32")
        whole = Whole(9, 100, antialias=False)
        preprocessing = Preprocessing((2, 9, 9), (0.5, 0.25), (0.5, 0.5), "bilinear", whole=whole, bands=bands)
        example = Prepare(preprocessing)(Raster(write(tmp_path / "a.tif", pixels), bands).load())
        assert example.image.shape == (2, 12, 9)
        assert torch.equal(example.image[:, :, 0], torch.zeros_like(example.image[:, :, 0]))
        assert example.image.isfinite().all()


@pytest.mark.parametrize(("kind", "white"), [("uint8", 255), ("uint16", 65535), ("int16", 32767), ("float32", 1)])
def test_values_are_parts_of_white(kind, white):
    pixels = pixels_of(kind).transpose(1, 2, 0)
    preprocessing = Preprocessing((4, 9, 9), (0.0,) * 4, (1.0,) * 4, bands=Bands((1, 2, 3, 4), kind))
    expected = torch.from_numpy(pixels.transpose(2, 0, 1).astype(np.float64) / white)
    assert torch.allclose(to_tensor(pixels, preprocessing).double(), expected, atol=1e-6)


@pytest.mark.parametrize(
    ("image", "bands", "said"),
    [
        (np.zeros((4, 4, 3), np.uint16), (Bands((1, 2, 3, 4), "uint16")), "takes 4 bands .*uint16, not 3 bands"),
        (np.zeros((4, 4, 4), np.uint8), (Bands((1, 2, 3, 4), "uint16")), "not 4 bands of the type uint8"),
        (np.zeros((4, 4, 4), np.uint8), None, "takes RGB images, not 4 bands"),
        (Image.new("RGB", (4, 4)), (Bands((1, 2, 3, 4), "uint16")), "takes 4 bands .*, not RGB images"),
    ],
    ids=["count", "type", "RGB model", "RGB image"],
)
def test_another_kind_of_image_is_refused(image, bands, said):
    channels = 3 if bands is None else 4
    preprocessing = Preprocessing((channels, 4, 4), (0.5,) * channels, (0.5,) * channels, bands=bands)
    with pytest.raises(ValueError, match=said):
        to_tensor(image, preprocessing)


class TestMeasured:
    def test_equals_the_mean_over_all_pixels_with_data(self, tmp_path):
        bands, rasters, values = Bands((2, 1), "uint16"), [], []
        for seed in range(3):
            pixels = pixels_of("uint16", count=2, seed=seed)
            pixels[:, 0] = 0
            rasters.append(Raster(write(tmp_path / f"{seed}.tif", pixels, nodata=0), bands))
            values.append(pixels[[1, 0], 1:].reshape(2, -1) / 65535)
        mean, std = measure(rasters, 0)
        values = np.concatenate(values, 1)
        assert mean == pytest.approx(values.mean(1))
        assert std == pytest.approx(values.std(1))

    def test_is_of_a_sample_that_the_seed_draws(self, tmp_path, monkeypatch):
        monkeypatch.setattr(raster, "MEASURED", 2)
        rasters = [
            Raster(write(tmp_path / f"{seed}.tif", np.full((1, 4, 4), seed, np.uint8)), Bands((1,), "uint8"))
            for seed in range(9)
        ]
        assert measure(rasters, 1) == measure(rasters, 1)
        assert len({measure(rasters, seed)[0] for seed in range(8)}) > 1
        assert measure(rasters[:1], 0)[1] == (1.0,)  # a constant band

    def test_reads_few_pixels_of_a_large_image(self, tmp_path, monkeypatch):
        monkeypatch.setattr(raster, "MEASURED_SIDE", 10)
        one = Raster(write(tmp_path / "a.tif", pixels_of("uint16", size=(100, 55))), Bands((1, 2), "uint16"))
        with Scene(one.path, one.bands) as scene:
            assert max(scene.reduced(10).shape[:2]) <= 10

    def test_without_a_readable_image(self, tmp_path):
        with pytest.raises(ValueError, match="no such file"):
            measure([Raster(str(tmp_path / "a.tif"), Bands((1,), "uint8"))], 0)


class TestBandsOfFiles:
    @pytest.mark.parametrize(
        ("kind", "count", "found"),
        [
            ("uint8", 1, None),
            ("uint8", 3, None),
            ("uint16", 1, None),
            ("uint8", 5, Bands((1, 2, 3, 4, 5), "uint8")),
            ("uint8", 2, Bands((1, 2), "uint8")),
            ("uint16", 3, Bands((1, 2, 3), "uint16")),
            ("float32", 6, Bands((1, 2, 3, 4, 5, 6), "float32")),
        ],
    )
    def test_by_the_first_file(self, tmp_path, kind, count, found):
        assert bands_of_files([write(tmp_path / "a.tif", pixels_of(kind, count))]) == found

    def test_transparency_is_no_band(self, tmp_path):
        path = write(tmp_path / "a.tif", pixels_of("uint8", 4), photometric="rgb", alpha="yes")
        assert bands_of_files([path]) is None

    def test_chosen_ones(self, tmp_path):
        path = write(tmp_path / "a.tif", pixels_of("uint16", 5))
        assert bands_of_files([path], [5, 1]) == Bands((5, 1), "uint16")

    @pytest.mark.parametrize("given", [0, [], [0], ["1"], [True], [1.5], list(range(1, 66)), "12"], ids=str)
    def test_wrong_numbers(self, given):
        with pytest.raises(ValueError, match="bands must be numbers of bands from 1"):
            bands_of_files([], given)

    def test_a_band_that_no_file_has(self, tmp_path):
        path = write(tmp_path / "a.tif", pixels_of("uint16", 2))
        with pytest.raises(ValueError, match="the file has 2 bands, and band 3 is asked for"):
            bands_of_files([path], [1, 3])

    def test_more_bands_than_a_model_takes(self, tmp_path):
        path = write(tmp_path / "a.tif", pixels_of("uint8", 65, size=(2, 2)))
        with pytest.raises(ValueError, match="65 bands, and a model takes 64"):
            bands_of_files([path])

    def test_without_rasterio(self, tmp_path, monkeypatch):
        path = write(tmp_path / "a.tif", pixels_of("uint16", 5))
        raster.rasterio.cache_clear()
        monkeypatch.setitem(sys.modules, "rasterio", None)
        with pytest.raises(ImportError, match=r"pip install 'glocal\[geo\]'"):
            bands_of_files([path], [1])
        raster.rasterio.cache_clear()


def test_masks_and_bands_without_rasterio_name_the_extra(tmp_path, monkeypatch):
    for name in ("images", "masks"):
        (tmp_path / name).mkdir()
    write(tmp_path / "images" / "a.tif", pixels_of("uint16", 5))
    write(tmp_path / "masks" / "a.tif", np.zeros((1, 9, 7), np.uint8))
    raster.rasterio.cache_clear()
    monkeypatch.setitem(sys.modules, "rasterio", None)
    with pytest.raises(ImportError, match=r"pip install 'glocal\[geo\]'"):
        mask_folders.matches(str(tmp_path))


@pytest.mark.parametrize(
    "bands",
    [
        {"numbers": [0, 1], "pixels": "uint8"},
        {"numbers": [1, 2], "pixels": "object"},
        {"numbers": [1, 2, 3], "pixels": "uint8"},
        {"numbers": [], "pixels": "uint8"},
        {"numbers": [1, 2], "pixels": "uint8", "path": "/vsicurl/"},
    ],
    ids=["number", "type", "channels", "none", "another field"],
)
def test_a_checkpoint_with_wrong_bands_is_refused(bands):
    values = {"input_size": [2, 32, 32], "mean": [0.5], "std": [0.5]}
    check_preprocessing({**values, "bands": {"numbers": [1, 2], "pixels": "uint8"}})
    with pytest.raises(ValueError, match="the preprocessing: "):
        check_preprocessing({**values, "bands": bands})


class TestHostile:
    bands = Bands((1, 2, 3, 4), "uint16")

    @pytest.mark.parametrize("place", [0, 40, -20], ids=["head", "tags", "pixels"])
    def test_broken_files(self, tmp_path, place):
        path = tmp_path / "a.tif"
        write(path, pixels_of("uint16", size=(90, 70)))
        content = path.read_bytes()
        path.write_bytes(content[:place] if place > 0 else content[: len(content) // 2] if place else b"II no TIFF")
        with pytest.raises(UnreadableImageError, match=r"a.tif: ") as caught:
            Raster(str(path), self.bands).load()
        assert "\n" not in str(caught.value)

    @pytest.mark.parametrize(
        "path",
        ["/vsicurl/http://127.0.0.1:9/a.tif", "http://127.0.0.1:9/a.tif", "zip+https://a/b.tif", "/vsimem/a.tif"],
    )
    def test_only_files_on_the_disk(self, path):
        with pytest.raises(UnreadableImageError, match="only files on the disk are read"):
            Raster(path, self.bands).load()

    def test_other_formats_of_gdal(self, tmp_path):
        source = write(tmp_path / "real.tif", pixels_of("uint16"))
        vrt = tmp_path / "a.tif"
        vrt.write_text(
            '<VRTDataset rasterXSize="7" rasterYSize="9"><VRTRasterBand dataType="UInt16" band="1"><SimpleSource>'
            f"<SourceFilename>{source}</SourceFilename><SourceBand>1</SourceBand></SimpleSource></VRTRasterBand>"
            "</VRTDataset>"
        )
        with rasterio.open(vrt) as file:
            assert file.driver == "VRT"  # GDAL itself would follow it
        with pytest.raises(UnreadableImageError, match="broken TIFF"):
            Raster(str(vrt), Bands((1,), "uint16")).load()

    def test_a_head_that_claims_too_much(self, tmp_path):
        path = str(tmp_path / "a.tif")
        about = {"width": 60_000, "height": 60_000, "count": 4, "dtype": "uint16", "tiled": True, "sparse_ok": True}
        with rasterio.open(path, "w", driver="GTiff", BIGTIFF="YES", **about):
            pass
        with pytest.raises(UnreadableImageError, match="60,000×60,000 pixels are more than is read"):
            Raster(path, self.bands).load()

    def test_more_pixels_than_fit_at_once(self, tmp_path):
        path = str(tmp_path / "a.tif")
        about = {"width": 20_000, "height": 20_000, "count": 4, "dtype": "uint16", "tiled": True, "sparse_ok": True}
        with rasterio.open(path, "w", driver="GTiff", **about):
            pass
        with pytest.raises(UnreadableImageError, match=r"3.0 GiB of pixels: predict --tile reads parts"):
            Raster(path, self.bands).load()
        with Scene(path, self.bands) as scene:
            assert scene.crop((0, 0, 8, 8)).shape == (8, 8, 4)

    def test_a_block_that_is_larger_than_is_read(self, tmp_path):
        path = str(tmp_path / "a.tif")
        about = {"width": 20_000, "height": 20_000, "count": 4, "dtype": "uint16", "blockysize": 20_000}
        with rasterio.open(path, "w", driver="GTiff", sparse_ok=True, compress="deflate", **about):
            pass
        with pytest.raises(UnreadableImageError, match="its blocks, of 20,000×20,000 pixels, are more"):
            Scene(path, self.bands).__enter__()

    def test_a_type_that_is_not_read(self, tmp_path):
        path = write(tmp_path / "a.tif", np.zeros((2, 4, 4), np.uint32))
        with pytest.raises(UnreadableImageError, match="pixels of the type uint32; uint8, uint16, int16, float32"):
            Raster(path, Bands((1, 2), "uint16")).load()

    def test_another_type_than_the_models(self, tmp_path):
        path = write(tmp_path / "a.tif", pixels_of("uint8"))
        with pytest.raises(UnreadableImageError, match="pixels of the type uint8, expected uint16"):
            Raster(path, self.bands).load()

    def test_other_files_beside_are_not_looked_at(self, tmp_path):
        path = write(tmp_path / "a.tif", pixels_of("uint16"))
        (tmp_path / "a.tif.aux.xml").write_text("<PAMDataset><SRS>EPSG:32632</SRS></PAMDataset>")
        with raster.opened(path) as file:
            assert file.crs is None
