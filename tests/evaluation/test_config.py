import pytest

from glocal.data.corruptions import ALEXNET_ERROR
from glocal.evaluation.config import EvalConfig


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"sizes": "224,big"}, "--sizes must be sizes in pixels such as 224,256,320, got '224,big'"),
        ({"sizes": "0"}, "--sizes must be"),
        ({"sizes": ""}, "--sizes must be"),
        ({"sizes": "224", "img_size": 224}, "--sizes and --img-size exclude each other"),
        ({"sizes": "224", "corruptions": "all"}, "--sizes and --corruptions exclude each other"),
        ({"sizes": "224", "set": "imagenet-c"}, "--sizes and --set exclude each other"),
        ({"set": "imagenet-a", "corruptions": "fog"}, "--set and --corruptions exclude each other"),
        ({"set": "imagenet-b"}, "--set must be imagenet-a, .* or real, got 'imagenet-b'"),
        ({"set": "real", "split": "val"}, "--split val does not apply to --set real"),
        ({"set": "real", "data_args": {"a": "b"}}, "--data-args does not apply to --set real"),
        ({"corruptions": "fog,rain"}, "--corruptions: 'rain' is none of gaussian_noise, "),
        ({"compare": ["a.json"]}, "--compare needs at least two files"),
    ],
    ids=str,
)
def test_what_does_not_fit_is_named(values, message):
    with pytest.raises(ValueError, match=message):
        EvalConfig(**values)


def test_lists():
    config = EvalConfig(sizes="224, 256,224")
    assert config.size_list() == [224, 256]
    assert config.corruption_list() == []
    assert EvalConfig(corruptions="snow,fog").corruption_list() == ["snow", "fog"]
    assert EvalConfig(corruptions="all").corruption_list() == list(ALEXNET_ERROR)
