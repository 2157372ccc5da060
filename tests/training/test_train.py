"""Real training on a few real images: what is learned, left behind, and kept when something goes wrong."""

import io
import math
import random
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console

from glocal.data.open import open_for_training
from glocal.data.samples import Opening
from glocal.deploy.predictor import Predictor
from glocal.device import torch_threads
from glocal.evaluation.config import EvalConfig
from glocal.evaluation.evaluate import evaluate
from glocal.tasks import find_task
from glocal.tasks.checkpoint import read_info, read_weights
from glocal.tasks.classification import objective
from glocal.training.config import TrainConfig
from glocal.training.lightning_module import TrainingModule, TrainingStopped
from glocal.training.prepare import _batch_size, prepare
from glocal.training.train import train
from run_output import rows

pytestmark = pytest.mark.usefixtures("one_thread")

SETTINGS = dict(model="test_resnet", img_size=32, batch_size=16, workers=0, hflip=0.0, device="cpu")


def run(data, output, **changes):
    return train(TrainConfig(str(data), output=str(output), **{**SETTINGS, **changes}), Console(file=io.StringIO()))


@pytest.fixture(scope="module")
def finished(digits_folder, tmp_path_factory):
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield run(digits_folder, tmp_path_factory.mktemp("run"), epochs=12, seed=3, val_fraction=0.3, batch_size=8)
    torch.set_num_threads(threads)


class TestFinishedRun:
    def test_it_has_learned(self, finished):
        assert finished.metrics["top1"] > 85

    def test_it_leaves_its_files(self, finished):
        names = {path.name for path in finished.output.iterdir()}
        assert names == {"model.safetensors", "last.ckpt", "metrics.csv", "config.yaml", "summary.json"}

    def test_checkpoint_knows_all_that_using_it_needs(self, finished):
        info = read_info(finished.output / "model.safetensors")
        assert info.model == "test_resnet"
        assert info.class_names == ["one", "two", "zero"]
        assert info.preprocessing["input_size"] == [3, 32, 32]
        assert {"mean", "std", "interpolation", "crop_pct"} <= info.preprocessing.keys()
        assert info.metrics == finished.metrics
        assert info.data["held_out"]["val_fraction"] == 0.3

    def test_csv_has_a_row_per_epoch(self, finished):
        log = rows(finished.output)
        assert [int(row["epoch"]) for row in log] == list(range(1, 13))
        assert float(log[-1]["train_loss"]) < float(log[0]["train_loss"])

    def test_best_epoch_is_kept(self, finished):
        log = [(float(row["val_top1"]), -float(row["val_loss"])) for row in rows(finished.output)]
        assert finished.metrics["epoch"] == log.index(max(log)) + 1

    def test_schedule_rises_and_falls_to_almost_nothing(self, finished):
        rates = [float(row["lr"]) for row in rows(finished.output)]
        assert rates[0] < rates[1]
        assert rates[1:] == sorted(rates[1:], reverse=True)
        assert max(rates) == pytest.approx(2e-3 * (8 / 64) ** 0.5, rel=0.1)
        assert rates[-1] < max(rates) / 10

    def test_last_checkpoint_loads_without_running_code(self, finished):
        state = torch.load(finished.output / "last.ckpt", weights_only=True)
        assert state["epoch"] == 11
        assert state["optimizer_states"]

    def test_evaluation_measures_what_training_reported(self, finished, digits_folder):
        result = evaluate(EvalConfig(str(digits_folder), str(finished.output), workers=0, device="cpu"))
        assert result.split == "val"
        assert result.images == finished.images["val"]
        assert result.top1 == pytest.approx(finished.metrics["top1"])
        assert result.loss == pytest.approx(finished.metrics["loss"], rel=1e-4)

    def test_prediction_needs_the_folder_only(self, finished, digits_folder, tmp_path):
        shutil.copytree(finished.output, tmp_path / "elsewhere")
        predictions = Predictor(tmp_path / "elsewhere", device="cpu", engine="torch")(
            sorted((digits_folder / "two").iterdir()), top_k=1
        )
        assert sum(prediction.labels == ["two"] for prediction in predictions) >= 24

    def test_second_run_is_refused(self, finished, digits_folder):
        before = (finished.output / "model.safetensors").read_bytes()
        with pytest.raises(FileExistsError, match="--overwrite"):
            run(digits_folder, finished.output)
        assert (finished.output / "model.safetensors").read_bytes() == before


AUGMENTED = dict(epochs=2, hflip=0.5, color_jitter=0.4, auto_augment="rand-m9-mstd0.5", random_erasing=0.3)


class TestSeed:
    @pytest.fixture(scope="class")
    def few(self, digits_folder, tmp_path_factory):
        """Eight images of each digit: 18 to train on and 6 to validate, in two steps of 9."""
        root = tmp_path_factory.mktemp("few")
        for file in digits_folder.glob("*/0[0-7].png"):
            (root / file.parent.name).mkdir(exist_ok=True)
            shutil.copy(file, root / file.parent.name)
        return root

    def bytes_of(self, data, output, **changes):
        run(data, output, **{"batch_size": 9, "val_fraction": 0.25, **changes})
        return (output / "model.safetensors").read_bytes()

    @pytest.mark.parametrize(
        "model",
        [
            "transxnet_pico",  # with dynamic kernels, attention, batch norm and stochastic depth
            *(
                pytest.param(f"{family}_pico", marks=pytest.mark.slow)
                for family in ("transnext", "hat_net", "transcnn", "conv2former", "van")
            ),
        ],
    )
    def test_same_seed_gives_the_same_file(self, few, tmp_path, model):
        settings = dict(model=model, drop_path=0.1, epochs=1, batch_size=18)
        with torch_threads(2):
            first = self.bytes_of(few, tmp_path / "1", **settings)
            assert self.bytes_of(few, tmp_path / "2", **settings) == first

    def test_also_with_workers_and_augmentation(self, few, tmp_path):
        """Whatever the process has drawn before, and whichever processes read the images."""
        torch.manual_seed(99)
        first = self.bytes_of(few, tmp_path / "1", **AUGMENTED)
        torch.rand(5)
        assert self.bytes_of(few, tmp_path / "2", workers=2, **AUGMENTED) == first

    def test_another_seed_gives_another(self, few, tmp_path):
        seeds = [self.bytes_of(few, tmp_path / str(seed), epochs=1, seed=seed) for seed in (0, 1)]
        assert seeds[0] != seeds[1]


RAMP_VALUES = np.broadcast_to(np.arange(32) * 8 / 255, (3, 32, 32))  # from left to right
RAMP = Image.fromarray((255 * RAMP_VALUES).round().astype(np.uint8).transpose(1, 2, 0))
GREY_LEVEL = 100 / 255
GREY = Image.new("RGB", (32, 32), (100, 100, 100))


def prepared(data, **changes):
    """What a training has before it begins."""
    config = TrainConfig(str(data), **{**SETTINGS, **changes})
    return prepare(config, config.model, open_for_training(config.data, Opening(config.val_fraction, config.seed)))


def configured(data, monkeypatch, **changes):
    """The optimizer and the schedule of a training."""
    run = prepared(data, **changes)
    trainer = SimpleNamespace(max_epochs=run.config.epochs + run.config.cooldown_epochs)
    monkeypatch.setattr(TrainingModule, "trainer", trainer)
    return run.module.configure_optimizers()


def seen(data, image, **changes):
    """The same image as a model would see it forty times: (3, 32, 32) of 0…1 each."""
    run = prepared(data, **{"crop_scale": 0.9, **changes})
    transform, mean, std = (
        run.preprocessing.training_transform(run.augmentation),
        *(torch.tensor(values).view(3, 1, 1) for values in (run.preprocessing.mean, run.preprocessing.std)),
    )
    torch.manual_seed(0), random.seed(0), np.random.seed(0)
    return [(transform(image) * std + mean).numpy() for _ in range(40)]


class TestOptions:
    """Every option reaches what it is about."""

    def test_weight_decay_spares_norms_and_biases(self, digits_folder, monkeypatch):
        optimizer = configured(digits_folder, monkeypatch, weight_decay=0.3)["optimizer"]
        groups = [(group["weight_decay"], {p.ndim for p in group["params"]}) for group in optimizer.param_groups]
        assert sorted(groups, key=str) == [(0.0, {1}), (0.3, {2, 4})]

    def test_rate_of_every_step(self, digits_folder, monkeypatch):
        """Linear from the warm-up's rate, then a cosine down to the lowest, as the formulas have them."""
        options = dict(epochs=10, lr=4e-3, min_lr=1e-4, warmup_lr=1e-5, warmup_epochs=1.0)
        parts = configured(digits_folder, monkeypatch, **options)
        optimizer, scheduler = parts["optimizer"], parts["lr_scheduler"]["scheduler"]
        steps = 4  # an epoch: of 90 images 72 are trained on, 16 at a time
        for step in range(10 * steps):
            scheduler.step_update(step)
            cosine = 1e-4 + (4e-3 - 1e-4) * (1 + math.cos(math.pi * step / (10 * steps))) / 2
            expected = 1e-5 + (4e-3 - 1e-5) * step / steps if step < steps else cosine
            assert optimizer.param_groups[0]["lr"] == pytest.approx(expected)

    @pytest.mark.parametrize(
        ("changes", "rate", "warmup"),
        [({}, 1e-3, 1), ({"batch_size": 64}, 2e-3, 1), ({"epochs": 100}, 1e-3, 5), ({"lr": 1e-4}, 1e-4, 1)],
        ids=str,
    )
    def test_default_rate(self, finished, digits_folder, monkeypatch, changes, rate, warmup):
        """2e-3 at 64 images, times the root of the batch; a tenth of it where weights are fine-tuned."""
        parts = configured(digits_folder, monkeypatch, **{"epochs": 10, **changes})
        scheduler = parts["lr_scheduler"]["scheduler"]
        assert scheduler.base_values[0] == pytest.approx(rate)
        assert scheduler.warmup_t == warmup * max(1, 72 // changes.get("batch_size", 16))
        assert scheduler.warmup_lr_init == scheduler.lr_min == pytest.approx(rate / 100)
        tuned = prepared(digits_folder, checkpoint=str(finished.output), **changes).module.lr
        assert tuned == pytest.approx(rate if "lr" in changes else rate / 10)

    @pytest.mark.parametrize("smoothing", [0.0, 0.3])
    def test_labels_are_smoothed(self, digits_folder, smoothing):
        logits, labels = torch.tensor([[1.0, 2.0, 4.0], [0.5, 0.0, -1.0]]), torch.tensor([2, 1])
        loss = prepared(digits_folder, label_smoothing=smoothing).module.objective.criterion(logits, labels)
        targets = torch.full((2, 3), smoothing / 3)
        targets[[0, 1], labels] += 1 - smoothing
        assert loss.item() == pytest.approx(-(targets * logits.log_softmax(1)).sum(1).mean().item())

    def test_drop_path_reaches_the_model(self, digits_folder):
        model = prepared(digits_folder, model="van_pico", drop_path=0.3).module.model
        rates = [part.drop_prob for part in model.modules() if type(part).__name__ == "DropPath"]
        assert max(rates) == pytest.approx(0.3)

    def test_part_held_out(self, digits_folder):
        source = prepared(digits_folder, val_fraction=0.4).source
        assert [torch.tensor(source.splits[part].labels).bincount().tolist() for part in ("train", "val")] == [
            [18, 18, 18],
            [12, 12, 12],
        ]

    def test_batch_and_size_of_images(self, digits_folder):
        run = prepared(digits_folder, batch_size=30, img_size=40)
        assert (run.batch_size, run.module.steps_per_epoch) == (30, 2)
        assert run.preprocessing.input_size == (3, 40, 40)

    @pytest.mark.parametrize(("size", "scale"), [(64, 0.6), (65, 0.35)])
    def test_small_images_are_cropped_less(self, digits_folder, size, scale):
        assert prepared(digits_folder, model="test_resnet", img_size=size).augmentation.crop_scale == scale

    @pytest.mark.parametrize("scale", [0.9, 0.1])
    def test_crops_are_as_large_as_asked(self, digits_folder, scale):
        widths = [np.ptp(image[0].mean(0)) * 255 / 8 + 1 for image in seen(digits_folder, RAMP, crop_scale=scale)]
        # Of an area s, with sides of 3:4 to 4:3, the width is √(3/4 · s) at least.
        assert min(widths) > 32 * (0.75 * scale) ** 0.5 - 3
        assert (min(widths) < 24) == (scale == 0.1)

    @pytest.mark.parametrize("part", [0.0, 0.5, 1.0])
    def test_mirrored_as_often_as_asked(self, digits_folder, part):
        images = seen(digits_folder, RAMP, crop_scale=1.0, hflip=part)
        mirrored = sum(image[0, 16, 0] > image[0, 16, -1] for image in images)
        assert mirrored == part * 40 if part in (0, 1) else 8 < mirrored < 32

    @pytest.mark.parametrize("strength", [0.0, 0.4])
    def test_colours_are_changed_as_much_as_asked(self, digits_folder, strength):
        greys = [image.mean() for image in seen(digits_folder, GREY, color_jitter=strength)]
        assert all((1 - strength) * GREY_LEVEL - 0.01 < grey < (1 + strength) * GREY_LEVEL + 0.01 for grey in greys)
        assert (np.std(greys) > 0.05) == (strength > 0)

    @pytest.mark.parametrize("part", [0.0, 1.0])
    def test_a_part_is_erased_as_often_as_asked(self, digits_folder, part):
        images = seen(digits_folder, GREY, random_erasing=part)
        assert sum(image.std() > 0.01 for image in images) == part * 40

    def test_policy_reaches_the_images(self, digits_folder):
        plain, changed = (seen(digits_folder, RAMP, auto_augment=name, crop_scale=1.0) for name in (None, "rand-m9"))
        assert sum(abs(image - RAMP_VALUES).max() > 0.2 for image in changed) > 10
        assert all(abs(image - RAMP_VALUES).mean() < 0.1 for image in plain)

    @pytest.mark.parametrize(
        ("images", "task", "small", "size"),
        [
            (1438, "classification", True, 128),
            (1438, "classification", False, 64),
            (96, "classification", True, 8),
            (2, "classification", False, 8),
            (1438, "segmentation", False, 16),
            (96, "segmentation", True, 8),
        ],
    )
    def test_default_batch_leaves_enough_steps(self, images, task, small, size):
        assert _batch_size(images, find_task(task), small) == size

    def test_fine_tuning_starts_from_the_checkpoint(self, finished, digits_folder, tmp_path):
        settings = dict(model=None, checkpoint=str(finished.output), lr=1e-7, epochs=1, val_fraction=0.3, seed=3)
        tuned = run(digits_folder, tmp_path / "out", **settings)
        assert tuned.model == "test_resnet"
        weights, before = (read_weights(path / "model.safetensors") for path in (tuned.output, finished.output))
        assert weights.keys() == before.keys()
        for name in before:  # of AdamW a step moves a weight by its rate, 4 steps here; statistics go their own way
            if "running" not in name and "num_batches" not in name:
                assert torch.allclose(weights[name], before[name], atol=1e-6), name

    def test_fixed_size_model_at_another_size(self, digits_folder, tmp_path):
        run(digits_folder, tmp_path / "out", model="test_vit", epochs=1)
        assert read_info(tmp_path / "out/model.safetensors").model_args == {"img_size": 32}
        evaluate(EvalConfig(str(digits_folder), str(tmp_path / "out"), workers=0))


class TestUnreadableFiles:
    @pytest.fixture
    def damaged(self, digits_folder, tmp_path):
        root = tmp_path / "damaged"
        shutil.copytree(digits_folder, root)
        for name in ("zero/05.png", "zero/06.png", "one/07.png"):
            (root / name).write_bytes((root / name).read_bytes()[:60])
        return root

    @pytest.mark.parametrize("workers", [0, 2])
    def test_are_skipped_counted_and_named(self, damaged, tmp_path, workers, caplog):
        result = run(damaged, tmp_path / "out", epochs=2, workers=workers, batch_size=12)
        assert len(result.unreadable) == 3
        assert result.metrics["top1"] > 30
        assert sum(int(row["unread"]) for row in rows(result.output)) == sum(result.unreadable.values())
        log = (result.output / "train.log").read_text()
        for name in ("zero/05.png", "zero/06.png", "one/07.png"):
            assert str(damaged / name) in log
            assert f"skipped {damaged / name}" in caplog.text

    @pytest.mark.parametrize("workers", [0, 2])
    def test_in_shards(self, digits_folder, digits_shards, tmp_path, workers, caplog):
        shutil.copytree(digits_shards, tmp_path / "shards")
        for file, shard in (("zero/06.png", 0), ("one/01.png", 1)):  # of each, every third file in a shard
            image, path = (digits_folder / file).read_bytes(), tmp_path / f"shards/digits-{shard}.tar"
            content = path.read_bytes()
            assert image in content
            path.write_bytes(content.replace(image, b"x" * len(image)))
        result = run(tmp_path / "shards", tmp_path / "out", epochs=2, workers=workers, batch_size=12)
        assert {name.split(": ")[1] for name in result.unreadable} == {"zero-06.png", "one-01.png"}
        assert sum(int(row["unread"]) for row in rows(result.output)) == sum(result.unreadable.values())
        assert f"skipped {tmp_path / 'shards/digits-0.tar'}: zero-06.png: not an image" in caplog.text

    @pytest.mark.parametrize("strict", [False, True])
    def test_jpegs_without_their_last_bytes(self, digits_folder, finished, tmp_path, strict):
        """They are read in worker processes too, unless that is not wanted."""
        root = tmp_path / "cut"
        shutil.copytree(digits_folder, root)
        for name in ("zero/05", "one/07"):
            with Image.open(root / f"{name}.png") as image:
                image.convert("RGB").save(root / f"{name}.jpg")
            (root / f"{name}.png").unlink()
            (root / f"{name}.jpg").write_bytes((root / f"{name}.jpg").read_bytes()[:-2])
        result = run(root, tmp_path / "out", epochs=1, workers=1, strict=strict)
        names = {str(root / "zero/05.jpg"), str(root / "one/07.jpg")}
        found = {name for name in names for reason in result.unreadable if reason.startswith(name)}
        assert found == (names if strict else set())
        measured = evaluate(EvalConfig(str(root), str(finished.output), split="all", workers=0, strict=strict))
        assert len(measured.unreadable) == (2 if strict else 0)

    def test_nothing_readable_stops_the_run(self, digits_folder, tmp_path):
        root = tmp_path / "all"
        shutil.copytree(digits_folder, root)
        for path in root.rglob("*.png"):
            path.write_bytes(b"broken")
        with pytest.raises(TrainingStopped, match=r"too many images cannot be read, .*\.png: not an image"):
            run(root, tmp_path / "out")

    def test_nothing_readable_to_validate(self, digits_folder, tmp_path):
        root = tmp_path / "divided"
        shutil.copytree(digits_folder, root / "train")
        (root / "val" / "one").mkdir(parents=True)
        (root / "val/one/a.png").write_bytes(b"broken")
        with pytest.raises(TrainingStopped, match=r"no validation image can be read, for instance .*a\.png"):
            run(root, tmp_path / "out", epochs=1)

    def test_evaluation_reports_them(self, damaged, finished):
        result = evaluate(EvalConfig(str(damaged), str(finished.output), split="all", workers=0))
        assert result.images == 87
        assert len(result.unreadable) == 3

    def test_evaluation_of_nothing_readable(self, tmp_path, finished):
        (tmp_path / "data/one").mkdir(parents=True)
        (tmp_path / "data/one/a.png").write_bytes(b"broken")
        with pytest.raises(ValueError, match="none of the 1 images"):
            evaluate(EvalConfig(str(tmp_path / "data"), str(finished.output), workers=0))


class TestStopped:
    def at_step(self, monkeypatch, step, do):
        """Let the loss of one step be what `do` makes of it."""
        original, calls = objective.create_classification_loss, []

        def create(*args, **kwargs):
            criterion = original(*args, **kwargs)

            def loss(*args):
                calls.append(1)
                return do(criterion(*args)) if len(calls) == step else criterion(*args)

            return loss

        monkeypatch.setattr(objective, "create_classification_loss", create)

    @pytest.mark.parametrize("value", [float("nan"), float("inf")])
    def test_non_finite_loss_names_the_step_and_keeps_the_last_good_state(
        self, digits_folder, tmp_path, monkeypatch, value
    ):
        self.at_step(monkeypatch, 6, lambda loss: loss * value)  # 4 steps an epoch
        with pytest.raises(
            TrainingStopped, match=rf"the loss is {value} at step 6 \(epoch 2\).*; saved at step 4 \(epoch 1\)"
        ):
            run(digits_folder, tmp_path, epochs=3)
        state = torch.load(tmp_path / "last.ckpt", weights_only=True)
        assert state["global_step"] == 4
        assert all(tensor.isfinite().all() for tensor in state["state_dict"].values())
        assert read_info(tmp_path / "model.safetensors").metrics["epoch"] == 1

    def test_weights_spoilt_by_the_last_step_are_not_kept(self, digits_folder, tmp_path, monkeypatch):
        def spoil(loss):
            loss.register_hook(lambda gradient: gradient * float("nan"))
            return loss

        self.at_step(monkeypatch, 8, spoil)  # the last step of the second epoch
        with pytest.raises(TrainingStopped, match="the validation loss is nan after step 8"):
            run(digits_folder, tmp_path, epochs=3)
        assert torch.load(tmp_path / "last.ckpt", weights_only=True)["global_step"] == 4

    def test_user_stops(self, digits_folder, tmp_path, monkeypatch):
        def interrupt(loss):
            raise KeyboardInterrupt

        self.at_step(monkeypatch, 7, interrupt)
        with pytest.raises(KeyboardInterrupt, match=r"stopped: saved at step 4 \(epoch 1\) in "):
            run(digits_folder, tmp_path, epochs=3)
        assert (tmp_path / "last.ckpt").exists()
        Predictor(tmp_path, device="cpu", engine="torch")

    def test_bug_is_not_hidden(self, digits_folder, tmp_path, monkeypatch):
        def bug(loss):
            raise UnboundLocalError("a bug")

        self.at_step(monkeypatch, 1, bug)
        with pytest.raises(UnboundLocalError):
            run(digits_folder, tmp_path)

    def test_batch_of_one_under_batch_norm(self, digits_folder, tmp_path):
        with pytest.raises(TrainingStopped, match="larger --batch-size"):
            run(digits_folder, tmp_path, batch_size=1)

    def test_wrong_arguments_leave_no_trace(self, digits_folder, tmp_path):
        wrongs = {
            "'test_resnt'": {"model": "test_resnt"},
            "33×33 pixels": {"model": "test_vit", "img_size": 33},
            "'gpu'": {"device": "gpu"},
            "--auto-augment 'rnd-m9'": {"auto_augment": "rnd-m9"},
        }
        for message, wrong in wrongs.items():
            with pytest.raises(ValueError, match=message):
                run(digits_folder, tmp_path / "out", **wrong)
        assert not (tmp_path / "out").exists()


class TestEvaluation:
    def test_classes_are_matched_by_name(self, finished, digits_folder, tmp_path):
        shutil.copytree(digits_folder / "zero", tmp_path / "data/zero")  # label 0 here, 2 in the model
        result = evaluate(EvalConfig(str(tmp_path / "data"), str(finished.output), workers=0))
        assert result.split == "all"
        assert result.top1 > 80

    def test_unknown_class_is_named(self, finished, digits_folder, tmp_path):
        shutil.copytree(digits_folder / "zero", tmp_path / "data/nought")
        with pytest.raises(ValueError, match=r"was not trained on: 'nought' \(it knows 'one', 'two', 'zero'\)"):
            evaluate(EvalConfig(str(tmp_path / "data"), str(finished.output), workers=0))

    def test_another_image_size(self, finished, digits_folder):
        result = evaluate(EvalConfig(str(digits_folder), str(finished.output), img_size=48, workers=0))
        assert result.img_size == [48, 48]

    def test_json_folder_must_exist(self, finished, digits_folder, tmp_path):
        with pytest.raises(FileNotFoundError, match="--json"):
            evaluate(EvalConfig(str(digits_folder), str(finished.output), json=str(tmp_path / "no/a.json")))
