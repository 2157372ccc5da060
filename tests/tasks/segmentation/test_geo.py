"""Georeferenced images: training on bands, and label maps where they lie on the Earth."""

import json
import sys

import numpy as np
import pytest
import rasterio
import torch
from PIL import Image
from rasterio.crs import CRS
from rasterio.features import rasterize
from rasterio.transform import Affine
from rasterio.warp import transform, transform_geom
from torch import nn

from glocal.cli import main
from glocal.data.masks import IGNORE
from glocal.data.open import open_for_training
from glocal.data.preprocessing import Preprocessing, Whole
from glocal.data.samples import Opening
from glocal.deploy.predictor import Predictor
from glocal.tasks import find_task
from glocal.tasks.segmentation.geo import void_value
from peak_memory import peak_of

pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
UTM = CRS.from_epsg(32632)
NORTH_UP = Affine(10, 0, 500_000, 0, -10, 5_000_000)
SOUTH_UP = Affine(10, 0, 500_000, 0, 10, 5_000_000)
TURNED = Affine.translation(500_000, 5_000_000) @ Affine.rotation(20) @ Affine.scale(10, -10)


def write(path, pixels, **about):
    """A TIFF of pixels (C, H, W)."""
    count, height, width = pixels.shape
    about = {"driver": "GTiff", "count": count, "width": width, "height": height, "dtype": pixels.dtype, **about}
    with rasterio.open(path, "w", **about) as file:
        file.write(pixels)
    return str(path)


def bands(size, water, seed=0, kind="uint16"):
    """Four bands of which the last is bright where there is water."""
    pixels = np.random.RandomState(seed).randint(1000, 3000, (4, *size))
    pixels[3][water] += 20_000
    return pixels.astype(kind)


@pytest.fixture(scope="module")
def fields(tmp_path_factory):
    folder = tmp_path_factory.mktemp("geo") / "data"
    for name in ("images", "masks"):
        (folder / name).mkdir(parents=True)
    for number in range(8):
        mask = np.zeros((1, 60, 50), np.uint8)
        mask[:, 10:30, 5 + number : 25 + number] = 1
        pixels = bands((60, 50), mask[0] == 1, number)
        pixels[:, :5] = 0  # no data
        mask[:, -3:] = 9
        about = {"crs": UTM, "transform": NORTH_UP}
        write(folder / "images" / f"{number}.tif", pixels, nodata=0, **about)
        write(folder / "masks" / f"{number}.tif", mask, nodata=9, **about)
    (folder / "classes.txt").write_text("ground\nwater\n")
    return folder


@pytest.fixture(scope="module")
def fields_run(fields, tmp_path_factory):
    torch.set_num_threads(1)
    output = tmp_path_factory.mktemp("geo") / "run"
    options = ["--model", "van_pico", "--img-size", "32", "--epochs", "1", "--batch-size", "4", "--workers", "0"]
    assert main(["train", str(fields), "--output", str(output), *options]) == 0
    return output


class Last(nn.Module):
    """The second class where the last band is bright."""

    def forward(self, images):
        last = images[:, -1:]
        return torch.cat([-last, last], 1)


class Largest(nn.Module):
    """The largest channel of a pixel is its class."""

    def forward(self, images):
        return 10 * images


@pytest.fixture
def predict(fields_run, monkeypatch):
    """`glocal predict` by `Last`, whose pixels are those of the image if the tile has the side 32."""
    monkeypatch.setattr(Predictor, "_outputs", Last())

    def call(*options):
        return main(
            ["predict", *map(str, options), "--checkpoint", str(fields_run), "--engine", "torch", "--tile", "32"]
        )

    return call


class TestTraining:
    def test_the_bands_are_in_the_run(self, fields_run):
        predictor = Predictor(fields_run)
        found = predictor.preprocessing
        assert found.bands.numbers == (1, 2, 3, 4)
        assert found.bands.pixels == "uint16"
        assert found.input_size == (4, 32, 32)
        assert found.mean[0] == pytest.approx(2000 / 65535, rel=0.05)
        assert found.mean[3] > 1.5 * found.mean[0]
        assert found.std[3] > 5 * found.std[0]

    def test_no_data_of_image_and_mask_counts_nowhere(self, fields):
        source = open_for_training(str(fields), formats=find_task("segmentation").formats)
        samples = source.splits["train"]
        image, labels = samples.load(0), samples.labels[0].load((60, 50))
        assert (labels[-3:] == IGNORE).all()
        assert (labels[:5] == 0).all()
        preprocessing = Preprocessing(
            (4, 50, 50), (0.1,) * 4, (1.0,) * 4, "bilinear", whole=Whole(50, 60), bands=source.bands
        )
        example = find_task("segmentation").transform(preprocessing, source.class_names)(image, samples.labels[0])
        assert (example.target == IGNORE).all(1).nonzero().flatten().tolist() == [0, 1, 2, 3, 4, 57, 58, 59]
        assert not example.image[:, :5].any()

    def test_eval_measures_on_the_same_bands(self, fields_run, fields, tmp_path):
        assert main(["eval", str(fields), "--checkpoint", str(fields_run), "--json", str(tmp_path / "out.json")]) == 0
        assert json.loads((tmp_path / "out.json").read_text())["images"] == 2

    def test_eval_refuses_other_bands(self, fields_run, fields, capsys):
        options = ["--checkpoint", str(fields_run), "--data-args", "{bands: [1, 2]}"]
        assert main(["eval", str(fields), *options]) == 2
        assert "the model takes 4 bands of the type uint16, and" in capsys.readouterr().err

    def test_another_number_of_channels_is_refused(self, fields, tmp_path, capsys):
        options = ["--model", "van_pico", "--model-args", "{in_chans: 3}", "--output", str(tmp_path / "run")]
        assert main(["train", str(fields), *options]) == 2
        assert "in_chans is 3, and the images have 4 bands" in capsys.readouterr().err

    def test_chosen_bands(self, fields):
        source = open_for_training(
            str(fields), Opening(args={"bands": [4, 1]}), formats=find_task("segmentation").formats
        )
        assert source.splits["train"].load(0).shape == (60, 50, 2)


class TestPredictions:
    @pytest.mark.parametrize("place", [NORTH_UP, TURNED], ids=["north up", "turned"])
    def test_geotiff_lies_where_its_image_lies(self, predict, tmp_path, place):
        water = np.zeros((100, 70), bool)
        water[20:50, 10:60] = True
        pixels = bands(water.shape, water)
        pixels[:, :, 65:] = 0
        scene = write(tmp_path / "scene.tif", pixels, crs=UTM, transform=place, nodata=0)
        assert predict(scene, "--save", f"geotiff={tmp_path / 'out'}") == 0
        with rasterio.open(tmp_path / "out" / "00000-scene.tif") as file:
            assert file.crs == UTM
            assert file.transform.almost_equals(place)
            assert file.nodata == 255
            assert file.tags(1) == {"CLASS_0": "ground", "CLASS_1": "water"}
            assert file.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"
            labels = file.read(1)
            assert len(set(file.colormap(1).values())) > 2
        assert (labels[:, 65:] == 255).all()
        assert np.array_equal(labels[:, :65], water[:, :65])
        assert [file.name for file in (tmp_path / "out").iterdir()] == ["00000-scene.tif"]

    def test_a_large_geotiff_has_overviews(self, predict, tmp_path):
        scene = write(tmp_path / "scene.tif", bands((40, 1200), np.zeros((40, 1200), bool)), crs=UTM, transform=TURNED)
        assert predict(scene, "--save", f"geotiff={tmp_path / 'out'}") == 0
        with rasterio.open(tmp_path / "out" / "00000-scene.tif") as file:
            assert file.overviews(1)
            assert file.profile["compress"] == "deflate"

    @pytest.mark.parametrize("place", [NORTH_UP, TURNED], ids=["north up", "turned"])
    def test_geojson_is_in_longitude_and_latitude(self, predict, tmp_path, place):
        water = np.zeros((100, 70), bool)
        water[20:50, 10:60] = True
        water[30:40, 20:30] = False  # a hole
        scene = write(tmp_path / "scene.tif", bands(water.shape, water), crs=UTM, transform=place)
        assert predict(scene, "--save", f"geojson={tmp_path / 'out.geojson'}") == 0
        features = json.loads((tmp_path / "out.geojson").read_text())["features"]
        (lake,) = [feature for feature in features if feature["properties"]["class"] == "water"]
        assert lake["properties"]["source"] == scene
        assert len(lake["geometry"]["coordinates"]) == 2
        # The corners, each by itself: longitude first.
        corners = [place @ point for point in ((10, 20), (60, 20), (60, 50), (10, 50))]
        expected = np.array(transform(UTM, "EPSG:4326", *zip(*corners, strict=True))).T
        found = np.array(lake["geometry"]["coordinates"][0])
        assert expected[:, 0].min() > 8.9
        assert all(np.abs(found - corner).sum(1).min() < 1e-7 for corner in expected)
        # And back: the same pixels.
        back = transform_geom("EPSG:4326", UTM, lake["geometry"])
        assert np.array_equal(rasterize([back], water.shape, transform=place), water)

    @pytest.mark.parametrize("place", [NORTH_UP, TURNED, SOUTH_UP], ids=["north up", "turned", "south up"])
    def test_rings_turn_as_rfc_7946_says(self, predict, tmp_path, place):
        water = np.zeros((40, 40), bool)
        water[5:35, 5:35] = True
        water[15:20, 15:20] = False
        scene = write(tmp_path / "scene.tif", bands(water.shape, water), crs=UTM, transform=place)
        assert predict(scene, "--save", f"geojson={tmp_path / 'out.geojson'}") == 0
        for feature in json.loads((tmp_path / "out.geojson").read_text())["features"]:
            outer, *inner = (np.array(ring) for ring in feature["geometry"]["coordinates"])
            areas = [np.sum(ring[:-1, 0] * ring[1:, 1] - ring[1:, 0] * ring[:-1, 1]) for ring in (outer, *inner)]
            assert areas[0] > 0
            assert all(area < 0 for area in areas[1:])

    def test_pixels_without_data_are_in_no_polygon(self, predict, tmp_path):
        pixels = bands((40, 40), np.zeros((40, 40), bool))
        pixels[:, :10] = 0
        scene = write(tmp_path / "scene.tif", pixels, crs=UTM, transform=NORTH_UP, nodata=0)
        assert predict(scene, "--save", f"geojson={tmp_path / 'out.geojson'}") == 0
        (ground,) = json.loads((tmp_path / "out.geojson").read_text())["features"]
        back = transform_geom("EPSG:4326", UTM, ground["geometry"])
        covered = rasterize([back], (40, 40), transform=NORTH_UP)
        assert not covered[:10].any()
        assert covered[10:].all()

    def test_pictures_show_the_bands(self, predict, tmp_path):
        scene = write(tmp_path / "scene.tif", bands((40, 50), np.zeros((40, 50), bool)), crs=UTM, transform=NORTH_UP)
        assert predict(scene, "--pictures", tmp_path / "out") == 0
        (picture,) = (tmp_path / "out").iterdir()
        assert Image.open(picture).width == 5 * 50  # enlarged, with the lines below
        assert Image.open(picture).height > 5 * 40


class TestRedGreenBlue:
    """Models of photographs, and georeferenced scenes of 8-bit RGB."""

    @pytest.fixture
    def predictor(self, run, monkeypatch):
        monkeypatch.setattr(Predictor, "_outputs", Largest())
        return Predictor(run, engine="torch", tile=48, overlap=16)

    def test_tiles_of_the_file_give_what_the_pixels_give(self, predictor, tmp_path, monkeypatch):
        pixels = np.random.RandomState(0).randint(0, 256, (130, 70, 3), np.uint8)
        scene = write(tmp_path / "scene.tif", pixels.transpose(2, 0, 1), crs=UTM, transform=TURNED)
        (expected,) = predictor([pixels])
        monkeypatch.setattr("glocal.deploy.predictor.read_image", None)  # reads the whole file
        (found,) = predictor([scene])
        assert np.array_equal(found.labels, expected.labels)
        assert found.source == scene

    def test_a_task_of_whole_images_takes_a_scene_no_larger_than_a_tile(self, tmp_path):
        options = ["--model", "van_pico", "--quick", "--epochs", "1", "--workers", "0"]
        assert main(["train", "digits", *options, "--output", str(tmp_path / "run")]) == 0
        pixels = np.random.RandomState(0).randint(0, 256, (40, 30, 3), np.uint8)
        scene = write(tmp_path / "scene.tif", pixels.transpose(2, 0, 1), crs=UTM, transform=TURNED)
        (found,) = Predictor(tmp_path / "run", engine="torch", tile=48)([scene])
        (expected,) = Predictor(tmp_path / "run", engine="torch")([pixels])
        assert found.labels == expected.labels

    def test_transparent_pixels_have_no_class(self, run, tmp_path):
        pixels = np.full((4, 60, 70), 255, np.uint8)
        pixels[3, :, :20] = 0
        scene = write(tmp_path / "scene.tif", pixels, crs=UTM, transform=TURNED, photometric="rgb", alpha="yes")
        options = ["--checkpoint", str(run), "--tile", "48", "--engine", "torch"]
        assert main(["predict", scene, *options, "--save", f"geotiff={tmp_path / 'out'}"]) == 0
        with rasterio.open(tmp_path / "out" / "00000-scene.tif") as file:
            void = file.read(1) == 255
        assert void[:, :20].all()
        assert not void[:, 20:].any()


class TestRefused:
    @pytest.mark.parametrize("kind", ["geotiff=out", "geojson=out.geojson"])
    def test_an_image_without_coordinates(self, predict, tmp_path, capsys, monkeypatch, kind):
        scene = write(tmp_path / "scene.tif", bands((40, 40), np.zeros((40, 40), bool)))
        monkeypatch.setattr(Predictor, "stream", None)  # before anything is computed
        name, _, place = kind.partition("=")
        assert predict(scene, "--save", f"{name}={tmp_path / place}") == 2
        error = capsys.readouterr().err
        assert f"--save {name}={tmp_path / place}: {scene} has no coordinate system (CRS)" in error
        assert not (tmp_path / "out.geojson").exists()

    def test_an_image_without_coordinates_after_many_others(self, fields_run, tmp_path, monkeypatch, capsys):
        monkeypatch.setattr("glocal.deploy.saving.CHECKED", 1)
        water = np.zeros((32, 32), bool)
        write(tmp_path / "1.tif", bands(water.shape, water), crs=UTM, transform=NORTH_UP)
        write(tmp_path / "2.tif", bands(water.shape, water))
        place, options = tmp_path / "out.geojson", ["--checkpoint", str(fields_run), "--engine", "torch"]
        assert main(["predict", str(tmp_path), *options, "--save", f"geojson={place}"]) == 2
        assert "2.tif has no coordinate system (CRS)" in capsys.readouterr().err
        assert sorted(file.name for file in tmp_path.iterdir()) == ["1.tif", "2.tif"]

    def test_a_picture_that_is_no_tiff(self, run, tmp_path, capsys):
        Image.new("RGB", (40, 40)).save(tmp_path / "a.png")
        options = ["--checkpoint", str(run), "--save", f"geotiff={tmp_path / 'out'}"]
        assert main(["predict", str(tmp_path / "a.png"), *options]) == 2
        assert "a.png is no TIFF file, so that it has no coordinates" in capsys.readouterr().err

    @pytest.mark.parametrize(
        ("pixels", "said"),
        [
            (np.zeros((3, 40, 40), np.uint16), "the file has 3 bands, and band 4 is asked for"),
            (np.zeros((4, 40, 40), np.uint8), "pixels of the type uint8, expected uint16"),
        ],
        ids=["bands", "type"],
    )
    def test_an_image_with_other_bands_is_an_error_of_its_own(self, predict, tmp_path, capsys, pixels, said):
        scene = write(tmp_path / "scene.tif", pixels, crs=UTM, transform=NORTH_UP)
        assert predict(scene) == 1
        assert said in capsys.readouterr().err

    def test_a_part_that_is_broken(self, predict, tmp_path, capsys):
        path = tmp_path / "scene.tif"
        write(path, bands((400, 400), np.zeros((400, 400), bool)), crs=UTM, transform=NORTH_UP)
        path.write_bytes(path.read_bytes()[:-300_000])
        assert predict(path) == 1
        assert "scene.tif: broken TIFF" in capsys.readouterr().err

    def test_a_service_has_no_bands(self, fields_run, capsys):
        assert main(["serve", "--checkpoint", str(fields_run), "--port", "0"]) == 2
        assert "the model takes 4 bands of the type uint16" in capsys.readouterr().err


@pytest.mark.parametrize(("classes", "value"), [(2, 255), (255, 255), (256, 65535)])
def test_pixels_without_data_are_no_class(classes, value):
    assert void_value(classes) == value


@pytest.mark.slow
def test_400_megapixels_of_four_bands_within_3_gigabytes(fields_run, tmp_path):
    path, side = tmp_path / "scene.tif", 20_000
    about = {"width": side, "height": side, "count": 4, "dtype": "uint16", "crs": UTM, "transform": NORTH_UP}
    with rasterio.open(path, "w", driver="GTiff", tiled=True, compress="deflate", zlevel=1, nodata=0, **about) as file:
        for top in range(0, side, 1000):
            strip = np.full((4, 1000, side), 2000, np.uint16)
            strip[3, :, 5000:9000] = 22_000
            strip[:, :, -100:] = 0
            file.write(strip, window=rasterio.windows.Window(0, top, side, 1000))
    saved = ["--save", f"geotiff={tmp_path / 'out'}", "--save", f"geojson={tmp_path / 'out.geojson'}"]
    options = ["--checkpoint", str(fields_run), "--tile", "1024", "--engine", "torch", *saved]
    peak = peak_of([sys.executable, "-m", "glocal", "predict", str(path), *options])
    with rasterio.open(tmp_path / "out" / "00000-scene.tif") as file:
        assert file.shape == (side, side)
        assert (file.read(1, window=rasterio.windows.Window(side - 100, 0, 100, 100)) == 255).all()
    assert peak < 3


def test_pictures_of_bands_have_colours(fields, fields_run, tmp_path):
    options = ["--workers", "0", "--device", "cpu"]
    assert main(["eval", "--checkpoint", str(fields_run), *options, "--pictures", str(tmp_path / "worst")]) == 0
    command = ["train", str(fields), "--model", "van_pico", "--img-size", "32", "--batch-size", "4", *options]
    assert main([*command, "--show-batch", str(tmp_path / "batch.png")]) == 0
    for path in (tmp_path / "batch.png", *(tmp_path / "worst").iterdir()):
        pixels = np.asarray(Image.open(path)).astype(int)
        assert (pixels.max(2) - pixels.min(2) > 100).mean() > 0.05  # more than classes are tinted
