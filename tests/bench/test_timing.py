"""Models timed side by side: on a clock of the test's own the figures are exact; with real models they exist."""

import pytest
import torch

from glocal.bench import steps, timing
from glocal.bench.config import BenchConfig, numbers, parse_sizes
from glocal.bench.steps import Entry, Step
from glocal.bench.timing import Timing


class Clock:
    """Time that passes only in the steps of fake models."""

    def __init__(self, seconds: dict[str, list[float]]):
        self.now = 0.0
        self.calls = []
        self.seconds = {name: iter(values) for name, values in seconds.items()}

    def step(self, entry, config, device, size, batch):
        def run():
            self.calls.append(entry.name)
            self.now += next(self.seconds[entry.name])

        return Step(run)


@pytest.fixture
def clocked(monkeypatch):
    """Compare models whose steps take the given seconds; the first three are not timed."""

    def compare(seconds, **options):
        clock = Clock(seconds)
        monkeypatch.setattr(timing, "step_of", clock.step)
        monkeypatch.setattr(timing, "_now", lambda device: clock.now)
        config = BenchConfig(list(seconds)[1:], baseline=next(iter(seconds)), device="cpu", **options)
        return timing.compare(config), clock.calls

    return compare


def test_median_ratio_and_spread(clocked):
    seconds = {"test_resnet": [9, 9, 9, 2, 4, 6, 8, 10], "test_vit": [50, 50, 50, 3, 3, 3, 300, 1]}
    (base, other), _ = clocked(seconds, rounds=5, batch_sizes="4")
    assert (base.model, base.ms, base.ratio) == ("test_resnet", 1000 * 6 / 4, 1)
    assert (other.model, other.ms, other.ratio) == ("test_vit", 1000 * 3 / 4, 0.5)
    assert base.spread == pytest.approx(8 / 4)


def test_the_fastest_round_of_each_model(clocked):
    seconds = {"test_resnet": [9, 9, 9, 8, 4, 6], "test_vit": [1, 1, 1, 30, 300, 10]}
    (base, other), _ = clocked(seconds, rounds=3, batch_sizes="2")
    assert (base.fastest, base.fastest_ratio) == (1000 * 4 / 2, 1)
    assert (other.fastest, other.fastest_ratio) == (1000 * 10 / 2, 2.5)


def test_models_take_turns(clocked):
    names = ["test_resnet", "test_vit", "van_pico"]
    _, calls = clocked({name: [1] * 6 for name in names}, rounds=3)
    assert calls == [name for name in names for _ in range(3)] + names * 3


def test_every_size_is_compared_with_the_baseline_at_that_size(clocked):
    timings, _ = clocked(
        {"test_resnet": [1, 1, 1, 1, 5, 5, 5, 5], "test_vit": [2] * 8}, rounds=1, sizes="32,64", batch_sizes="2"
    )
    assert [(t.size, t.batch_size, t.ratio) for t in timings] == [
        ((32, 32), 2, 1),
        ((32, 32), 2, 2),
        ((64, 64), 2, 1),
        ((64, 64), 2, 0.4),
    ]


@pytest.mark.parametrize(
    ("mode", "options"),
    [
        ("infer", {"precision": "bf16", "channels_last": False, "threads": 1}),
        ("train", {"precision": "bf16"}),
        *(
            pytest.param(mode, options, marks=pytest.mark.slow)
            for mode in ("infer", "train")
            for options in ({}, {"precision": "bf16"}, {"channels_last": False}, {"threads": 1})
        ),
    ],
)
def test_real_models(mode, options):
    config = BenchConfig(["van_pico"], "test_resnet", mode, "2,3", "32", rounds=2, device="cpu", **options)
    seen = []
    timings = timing.compare(config, lambda items, total: seen.append(total) or items)
    assert seen == [4]
    assert [(t.model, t.batch_size, t.error) for t in timings] == [
        (name, batch, "") for batch in (2, 3) for name in ("test_resnet", "van_pico")
    ]
    assert all(t.ms > 0 and t.ratio > 0 and t.spread >= 1 for t in timings)


@pytest.mark.parametrize("mode", ["infer", "train"])
def test_a_step_is_what_it_says(mode, monkeypatch):
    made = []
    create = steps.create_model
    monkeypatch.setattr(
        steps, "create_model", lambda *args, **options: made.append(create(*args, **options)) or made[0]
    )
    config = BenchConfig(["van_pico"], mode=mode)
    step = steps.step_of(Entry("van_pico"), config, torch.device("cpu"), (32, 32), 2).run
    before = [parameter.clone() for parameter in made[0].parameters()]
    step()
    moved = [not torch.equal(old, new) for old, new in zip(before, made[0].parameters(), strict=True)]
    assert made[0].training == (mode == "train")
    assert all(moved) if mode == "train" else not any(moved)


@pytest.mark.parametrize("fuse", [True, False])
def test_fused_models_have_fewer_norms(fuse, monkeypatch):
    inferred = []
    model_type = type(steps.create_model("van_pico"))
    forward = model_type.forward
    monkeypatch.setattr(model_type, "forward", lambda self, x: inferred.append(self) or forward(self, x))
    steps.step_of(Entry("van_pico"), BenchConfig(["van_pico"], fuse=fuse), torch.device("cpu"), (32, 32), 1).run()
    norms = [isinstance(block.norm2, torch.nn.BatchNorm2d) for stage in inferred[0].stages for block in stage.blocks]
    assert not any(norms) if fuse else all(norms)


def test_a_model_that_fails_does_not_stop_the_others():
    timings = timing.compare(BenchConfig(["vgg11", "van_pico"], "test_resnet", sizes="16", rounds=1, device="cpu"))
    assert [bool(t.error) for t in timings] == [False, True, False]
    assert timings[1].ms is None
    assert "\n" not in timings[1].error


def test_a_baseline_that_fails_leaves_times_without_ratios():
    timings = timing.compare(BenchConfig(["van_pico"], "vgg11", sizes="16", rounds=1, device="cpu"))
    assert timings[0].error
    assert timings[1].ms > 0
    assert timings[1].ratio is None


def test_threads_are_as_before_afterwards():
    before = torch.get_num_threads()
    timing.compare(BenchConfig(["van_pico"], "test_resnet", sizes="32", rounds=1, device="cpu", threads=before + 1))
    assert torch.get_num_threads() == before


def test_peak_memory():
    def step():
        a = torch.ones(2**18)  # 1 MiB
        b = torch.ones(2**19)
        del a
        return b, torch.ones(2**19)

    assert timing._peak_memory(step, torch.device("cpu")) == 4


def test_memory_holds_what_is_kept_for_a_size(monkeypatch):
    def step(entry, config, device, size, batch):
        kept = []

        def run():
            if not kept:
                kept.append(torch.ones(2**18))  # 1 MiB
            return torch.ones(2**18)

        return Step(run)

    monkeypatch.setattr(timing, "step_of", step)
    modes = {"infer": 2, "train": 1}  # in training nothing is kept; the first step makes the optimizer's state
    for mode, memory in modes.items():
        (row,) = timing.compare(BenchConfig([], "test_resnet", mode, rounds=1, device="cpu"))
        assert row.memory == memory


def test_memory_grows_with_the_batch_not_with_the_other_models():
    def memory(models, batch):
        config = BenchConfig(models, "van_pico", batch_sizes=batch, sizes="64", rounds=1, device="cpu")
        return timing.compare(config)[0].memory

    assert memory(["test_resnet"], "4") == memory(["transnext_pico"], "4") > 1.1 * memory(["test_vit"], "2") > 0


def test_growth_is_the_exponent_in_pixels():
    sizes = [(224, 224), (512, 392), (1024, 1024)]
    rows = [Timing("square", 1, (h, w), ms=(h * w) ** 2, memory=3 * h * w) for h, w in sizes]
    rows += [Timing("linear", 1, (h, w), ms=0.1 * h * w) for h, w in sizes]
    rows += [Timing("linear", 8, (224, 224), ms=1.0), Timing("linear", 8, (448, 448), error="out of memory")]
    square, linear = timing.growth(rows)
    assert (square.model, linear.model) == ("square", "linear")
    assert (square.time, square.memory) == (pytest.approx(2), pytest.approx(1))
    assert (linear.time, linear.memory) == (pytest.approx(1), None)


def test_models_take_arguments():
    config = BenchConfig(["transnext_pico,pool_size=1"], "transnext_pico", sizes="64", rounds=1, device="cpu")
    base, linear = timing.compare(config)
    assert (base.error, linear.error) == ("", "")
    assert linear.memory < base.memory


@pytest.mark.parametrize("text", ["van_pico,", "van_pico,3", "van_pico,=3", "van_pico,a b=3"])
def test_arguments_that_are_none(text):
    with pytest.raises(ValueError, match="models are given as NAME or NAME,argument=value, got"):
        BenchConfig([text])


@pytest.mark.parametrize("engine", ["openvino", pytest.param("onnxruntime", marks=pytest.mark.slow)])
def test_engines_compute_what_they_are_timed_for(engine):
    config = BenchConfig([], "test_resnet", sizes="64x48", rounds=1, batch_sizes="2", engine=engine)
    (row,) = timing.compare(config)
    assert (row.size, row.error, row.memory) == ((64, 48), "", None)
    assert row.ms > 0
    step = steps.step_of(Entry("test_resnet"), config, torch.device("cpu"), (64, 48), 2).run
    assert step.func.name == engine
    torch.manual_seed(0)
    model = steps.create_model("test_resnet").eval()
    assert step() == pytest.approx(model(torch.from_numpy(step.args[0])).detach().numpy(), abs=1e-4)


@pytest.mark.parametrize(("text", "sizes"), [("224", [(224, 224)]), ("32,512x384", [(32, 32), (512, 384)])])
def test_sizes(text, sizes):
    assert parse_sizes(text) == sizes


@pytest.mark.parametrize("text", ["", "0", "x5", "5x", "5x0", "5x5x5", "a", "5 x 5", "9" * 5000])
def test_sizes_that_are_none(text):
    with pytest.raises(ValueError, match="--sizes must be numbers such as 224,512x384, got"):
        parse_sizes(text)


@pytest.mark.parametrize("text", ["", "0", "-1", "1.5", "a", "1,,2", "1 2", "1,"])
def test_numbers_refuses(text):
    with pytest.raises(ValueError, match="--sizes must be numbers such as"):
        numbers(text, "--sizes")


@pytest.mark.parametrize(("text", "values"), [("8", [8]), (8, [8]), ("1,8, 16", [1, 8, 16])])
def test_numbers(text, values):
    assert numbers(text, "--sizes") == values
