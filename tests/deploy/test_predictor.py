import numpy as np
import pytest
import timm
import torch
from PIL import Image

from glocal.data.image import StoredImage, UnreadableImageError
from glocal.data.preprocessing import Preprocessing
from glocal.deploy import predictor as predictor_module
from glocal.deploy.predictor import Predictor

pytestmark = pytest.mark.usefixtures("one_thread")

CLASSES = ["ant", "bee", "cat", "dog"]


@pytest.fixture(scope="module")
def predictor(checkpoint):
    return Predictor(checkpoint, device="cpu", batch_size=3, engine="torch")


@pytest.fixture
def images(tmp_path):
    """Seven images, of which the second and the fifth cannot be read."""
    random = np.random.RandomState(0)
    paths = []
    for index in range(7):
        path = tmp_path / f"{index}.png"
        Image.fromarray(random.randint(0, 256, (40, 50, 3), dtype=np.uint8)).save(path)
        paths.append(str(path))
    (tmp_path / "1.png").write_bytes(b"")
    (tmp_path / "4.png").write_text("text")
    return paths


def test_is_the_model_on_the_preprocessed_image(predictor, images):
    image = Image.open(images[0])
    logits = predictor.model(Preprocessing((3, 32, 32), (0.5,) * 3, (0.25,) * 3).transform()(image)[None])
    expected = logits.softmax(-1)[0].sort(descending=True)
    assert predictor.class_names == CLASSES
    prediction = predictor(images[0], top_k=4)[0]
    assert prediction.labels == [CLASSES[index] for index in expected.indices]
    assert prediction.probabilities == pytest.approx(expected.values.tolist(), abs=1e-5)


def test_every_image_gets_its_result_whatever_the_batches(predictor, checkpoint, images):
    results = predictor(images)
    assert [result.source for result in results] == images
    assert [result.source for result in results if result.error] == [images[1], images[4]]
    alone = Predictor(checkpoint, device="cpu", batch_size=1, engine="torch")
    for result, other in zip(results, alone(images), strict=True):
        assert result.labels == other.labels
        assert result.probabilities == pytest.approx(other.probabilities, abs=1e-5)


def test_embeddings_are_the_features_before_the_classifier(predictor, images):
    embeddings = list(predictor.embed(images))
    assert [embedding.source for embedding in embeddings] == images
    transform = Preprocessing((3, 32, 32), (0.5,) * 3, (0.25,) * 3).transform()
    for path, embedding in zip(images, embeddings, strict=True):
        if path in (images[1], images[4]):
            assert (embedding.vector, type(embedding.error)) == (None, UnreadableImageError)
            continue
        with torch.no_grad():
            features = predictor.model.forward_features(transform(Image.open(path))[None])
            expected = predictor.model.forward_head(features, pre_logits=True)[0].numpy()
        assert embedding.vector.dtype == np.float32
        assert embedding.vector.shape == (predictor.embedding_size,)
        np.testing.assert_allclose(embedding.vector, expected, atol=1e-5)


def test_embeddings_are_the_same_whatever_the_batches(predictor, checkpoint, images):
    alone = Predictor(checkpoint, device="cpu", batch_size=1, engine="torch", threads=1)
    for one, other in zip(alone.embed(images), predictor.embed(images), strict=True):
        assert str(one.error) == str(other.error)
        if one.error is None:
            np.testing.assert_allclose(one.vector, other.vector, atol=1e-5)


def test_stored_images_are_their_files(predictor, images):
    with open(images[0], "rb") as file:
        stored = [StoredImage("a", file.read()), StoredImage("b", b"text"), StoredImage("c")]
    read, broken, missing = predictor(stored)
    assert read.source == "a"
    assert read.probabilities == pytest.approx(predictor(images[0])[0].probabilities, abs=1e-6)
    assert [str(broken.error), str(missing.error)] == ["b: not an image", "c: no image"]


@pytest.mark.parametrize("engine", ["openvino", pytest.param("onnxruntime", marks=pytest.mark.slow)])
def test_other_engines_agree(predictor, checkpoint, images, engine, tmp_path, monkeypatch):
    pytest.importorskip(engine)
    monkeypatch.setenv("GLOCAL_CACHE", str(tmp_path / "cache"))
    other = Predictor(checkpoint, device="cpu", batch_size=3, engine=engine)
    for result, expected in zip(other(images, top_k=4), predictor(images, top_k=4), strict=True):
        assert result.labels == expected.labels
        assert result.probabilities == pytest.approx(expected.probabilities, abs=1e-5)
        assert str(result.error) == str(expected.error)
    assert other.engine == engine
    for result, expected in zip(other.embed(images), predictor.embed(images), strict=True):
        assert (result.vector is None) == (expected.vector is None)
        if expected.vector is not None:
            np.testing.assert_allclose(result.vector, expected.vector, atol=1e-4)


def test_engines_are_for_a_cpu(checkpoint, monkeypatch):
    monkeypatch.setattr(predictor_module, "resolve_device", lambda device: torch.device("meta"))
    with pytest.raises(ValueError, match="openvino computes on a CPU, not on meta"):
        Predictor(checkpoint, device="meta", engine="openvino")


def test_what_was_read_before_the_images_end_in_an_error(predictor, images):
    def broken():
        yield from [images[0]] * 4
        raise OSError("the folder has gone")

    seen = []
    with pytest.raises(OSError, match="the folder has gone"):
        seen.extend(predictor.stream(broken()))
    assert len(seen) == 4


def test_no_more_than_two_batches_are_read_ahead(predictor, images):
    read = []

    def counted():
        for _ in range(100):
            read.append(1)
            yield images[0]

    results = predictor.stream(counted())
    for number in range(1, 10):
        next(results)
        assert len(read) <= 2 * predictor.batch_size + (number - 1) // predictor.batch_size * predictor.batch_size
    results.close()


def test_unreadable_images_say_why(predictor, images):
    error = predictor(images[1])[0].error
    assert isinstance(error, UnreadableImageError)
    assert str(error) == f"{images[1]}: the file is empty"


def test_paths_images_and_arrays_agree(predictor, images):
    image = Image.open(images[0])
    probabilities = [result.probabilities for result in predictor([images[0], image, np.asarray(image)])]
    assert probabilities[0] == pytest.approx(probabilities[1], abs=1e-6)
    assert probabilities[0] == pytest.approx(probabilities[2], abs=1e-6)


@pytest.mark.parametrize("shape", [(8, 9), (8, 9, 3), (8, 9, 4)])
def test_array_shapes(predictor, shape):
    assert len(predictor(np.zeros(shape, np.uint8))) == 1


@pytest.mark.parametrize("array", [np.zeros((8, 9)), np.zeros((8, 9, 2), np.uint8), np.zeros((2, 8, 9, 3), np.uint8)])
def test_other_arrays_are_refused(predictor, array):
    with pytest.raises(TypeError, match="an array must be uint8 of shape"):
        predictor(array)


@pytest.mark.parametrize("other", [3, [3], [b"content"], [None]], ids=repr)
def test_what_is_no_image_is_refused(predictor, other):
    with pytest.raises(TypeError, match=r"an image must be a path, a PIL image or a uint8 array, got \w+"):
        predictor(other)


@pytest.mark.parametrize("shape", [(0, 5), (5, 0), (0, 5, 3), (0, 0, 4)], ids=str)
def test_array_without_pixels(predictor, shape):
    error = predictor([np.zeros(shape, np.uint8)])[0].error
    assert isinstance(error, UnreadableImageError)
    assert str(error) == f"broken image (no pixels: {shape[1]} wide, {shape[0]} high)"


def test_image_without_pixels(predictor):
    assert "no pixels: 0 wide, 5 high" in str(predictor(Image.new("RGB", (0, 5)))[0].error)


def test_opened_image_that_is_truncated_does_not_stop_the_others(predictor, images, tmp_path):
    path = tmp_path / "truncated.png"
    with open(images[0], "rb") as whole:
        path.write_bytes(whole.read()[:2000])
    truncated, good = predictor([Image.open(path), Image.open(images[2])])
    assert isinstance(truncated.error, UnreadableImageError)
    assert str(truncated.error).startswith(f"{path}: broken image (")
    assert good.error is None


@pytest.mark.parametrize(("mode", "size"), [("RGBA", (9, 9)), ("L", (1, 1)), ("P", (20000, 20)), ("CMYK", (3, 4))])
def test_any_image(predictor, mode, size):
    prediction = predictor(Image.new(mode, size), top_k=4)[0]
    assert sum(prediction.probabilities) == pytest.approx(1, abs=1e-4)


def test_16_bit_image_is_seen_as_its_8_bit_twin(predictor, tmp_path):
    grey = np.random.RandomState(0).randint(0, 256, (32, 32), dtype=np.uint8)
    Image.fromarray(grey).save(tmp_path / "8.png")
    Image.fromarray(grey.astype(np.uint16) * 257).save(tmp_path / "16.png")
    eight, sixteen = predictor([tmp_path / "8.png", tmp_path / "16.png"])
    assert eight.probabilities == pytest.approx(sixteen.probabilities, abs=1e-6)


@pytest.mark.parametrize(("top_k", "count"), [(1, 1), (3, 3), (4, 4), (100, 4)])
def test_top_k(predictor, images, top_k, count):
    prediction = predictor(images[0], top_k)[0]
    assert len(prediction.labels) == count
    assert prediction.probabilities == sorted(prediction.probabilities, reverse=True)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_non_finite_values_of_the_model_stop_the_run(checkpoint, images, value):
    predictor = Predictor(checkpoint, device="cpu", engine="torch")
    predictor._outputs = lambda images: torch.full((len(images), 4), value)
    with pytest.raises(RuntimeError, match="the model gives non-finite values"):
        predictor(images)
    predictor._outputs_and_embedding = lambda images: [None, torch.full((len(images), 8), value)]
    with pytest.raises(RuntimeError, match="the model gives non-finite values"):
        list(predictor.embed(images))


def test_nothing_to_predict(predictor):
    assert predictor([]) == []


def test_streams_without_reading_everything_first(predictor, images):
    def endless():
        while True:
            yield images[0]

    assert next(predictor.stream(endless())).source == images[0]


@pytest.mark.parametrize("call", [lambda p: p([], top_k=0), lambda p: Predictor(batch_size=0)])
def test_numbers_out_of_range(predictor, call):
    with pytest.raises(ValueError, match="must be at least 1, got 0"):
        call(predictor)


def test_published_weights_from_a_file(tmp_path):
    model = timm.create_model("test_resnet")
    torch.save(model.state_dict(), tmp_path / "official.pth")
    predictor = Predictor(tmp_path / "official.pth", "test_resnet", device="cpu", engine="torch")
    assert len(predictor.class_names) == 1000
    assert "tench, Tinca tinca" in predictor.class_names
    assert len(predictor(Image.new("RGB", (200, 180)))[0].labels) == 5
