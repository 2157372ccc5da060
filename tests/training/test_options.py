"""What the options of a training do, each against something independent."""

import copy
import csv
import dataclasses
import io
import re
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import lightning.pytorch as lightning
import numpy as np
import pytest
import timm
import torch
from PIL import Image
from rich.console import Console
from torch import nn
from torch.nn import functional as F

from glocal.data.batch import Batch
from glocal.deploy.predictor import Predictor
from glocal.evaluation.config import EvalConfig
from glocal.evaluation.evaluate import evaluate
from glocal.tasks import find_task, loading
from glocal.tasks.checkpoint import read_info, read_weights
from glocal.tasks.classification import objective
from glocal.tasks.classification.distillation import Teacher
from glocal.tasks.classification.objective import ClassificationObjective
from glocal.tasks.creation import create_model
from glocal.tasks.loading import load_trained
from glocal.tasks.task import Trained
from glocal.training import loop
from glocal.training.config import TrainConfig
from glocal.training.freezing import freeze
from glocal.training.lightning_module import TrainingModule, TrainingStopped
from glocal.training.train import train
from run_output import rows

pytestmark = pytest.mark.usefixtures("one_thread")

SETTINGS = dict(model="test_resnet", img_size=32, batch_size=16, workers=0, hflip=0.0, device="cpu", epochs=1)


def run(data, output, **changes):
    return train(TrainConfig(str(data), output=str(output), **{**SETTINGS, **changes}), Console(file=io.StringIO()))


@pytest.fixture
def spy(monkeypatch):
    """The module and the trainer of the runs that follow, in order."""
    seen = []
    original = loop.lightning.Trainer.fit

    def fit(self, module, *args, **kwargs):
        seen.append((module, self))
        return original(self, module, *args, **kwargs)

    monkeypatch.setattr(loop.lightning.Trainer, "fit", fit)
    return seen


class TestAccumulation:
    @pytest.mark.parametrize("parts", [2, pytest.param(4, marks=pytest.mark.slow)])
    def test_parts_of_a_batch_are_as_good_as_the_whole(self, digits_folder, tmp_path, parts):
        settings = dict(model="transnext_pico", drop_path=0.0, epochs=1, clip_grad=0.5)
        whole = run(digits_folder, tmp_path / "1", **settings)
        divided = run(digits_folder, tmp_path / "2", accumulate=parts, **settings)
        assert divided.metrics["loss"] == pytest.approx(whole.metrics["loss"], rel=1e-4)
        weights = [read_weights(result.output / "model.safetensors") for result in (whole, divided)]
        for name, tensor in weights[0].items():
            assert torch.allclose(tensor, weights[1][name], atol=1e-4), name

    def test_uneven_parts_are_refused(self, digits_folder, tmp_path):
        with pytest.raises(ValueError, match=r"--batch-size 16 .* multiple of 3"):
            run(digits_folder, tmp_path, accumulate=3)


class TestGradientClipping:
    def test_norm_is_limited(self, digits_folder, tmp_path, monkeypatch):
        norms = []

        def note(self, optimizer):  # before the next step: the gradients are still those of the last one
            gradients = [p.grad for p in self.model.parameters() if p.grad is not None]
            if gradients:
                norms.append(torch.linalg.vector_norm(torch.stack([g.norm() for g in gradients])).item())

        monkeypatch.setattr(TrainingModule, "on_before_zero_grad", note)
        run(digits_folder, tmp_path / "1")
        assert min(norms) > 0.02
        norms.clear()
        run(digits_folder, tmp_path / "2", clip_grad=0.01)
        assert norms == pytest.approx([0.01] * len(norms), rel=1e-3)
        assert norms


class TestMeasuring:
    def test_crop_is_chosen(self, digits_folder, tmp_path):
        run(digits_folder, tmp_path / "own", img_size=96)
        run(digits_folder, tmp_path / "chosen", img_size=96, crop_pct=0.9, crop_mode="squash")
        own, chosen = (read_info(tmp_path / name / "model.safetensors").preprocessing for name in ("own", "chosen"))
        assert own["crop_mode"] == "center"
        assert chosen == {**own, "crop_pct": 0.9, "crop_mode": "squash"}
        assert rows(tmp_path / "own")[0]["train_loss"] == rows(tmp_path / "chosen")[0]["train_loss"]
        assert rows(tmp_path / "own")[0]["val_loss"] != rows(tmp_path / "chosen")[0]["val_loss"]


class TestAveraging:
    def test_average_is_that_of_the_weights_after_each_step(self, digits_folder, tmp_path, monkeypatch):
        history = []
        original = TrainingModule.optimizer_step

        def step(self, *args, **kwargs):
            original(self, *args, **kwargs)
            history.append({name: p.detach().clone() for name, p in self.model.named_parameters()})

        monkeypatch.setattr(TrainingModule, "optimizer_step", step)
        run(digits_folder, tmp_path, ema=0.6)
        kept = read_weights(tmp_path / "model.safetensors")
        for name in history[0]:
            average = history[0][name]  # timm starts the average at the first step
            for weights in history[1:]:
                average = 0.6 * average + 0.4 * weights[name]
            assert torch.allclose(kept[name], average, atol=1e-6), name
        raw = read_weights(tmp_path / "model.raw.safetensors")
        assert all(torch.equal(raw[name], history[-1][name]) for name in history[0])

    def test_both_are_measured(self, digits_folder, tmp_path):
        result = run(digits_folder, tmp_path, ema=0.9, epochs=2)
        last = rows(tmp_path)[-1]
        assert float(last["val_loss"]) != float(last["val_raw_loss"])
        assert result.metrics == read_info(tmp_path / "model.safetensors").metrics
        measured = evaluate(EvalConfig(str(digits_folder), str(tmp_path), workers=0, device="cpu"))
        assert measured.loss == pytest.approx(result.metrics["loss"], rel=1e-4)  # of the file that is kept
        raw = read_info(tmp_path / "model.raw.safetensors").metrics
        assert raw["loss"] == pytest.approx(float(rows(tmp_path)[raw["epoch"] - 1]["val_raw_loss"]))


class TestLearningRate:
    def test_layers_learn_the_slower_the_lower_they_are(self, digits_folder, tmp_path, spy):
        run(digits_folder, tmp_path, model="van_pico", layer_decay=0.5, lr=1e-3)
        module, trainer = spy[0]
        optimizer = trainer.optimizers[0]
        rates = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
        names = dict(module.model.named_parameters())
        stem = rates[id(next(p for name, p in names.items() if name.startswith("stem")))]
        last = rates[id(next(p for name, p in names.items() if name.startswith("stages.3.blocks")))]
        head = rates[id(next(p for name, p in names.items() if name.startswith("head")))]
        assert stem < last < head
        assert stem <= head * 0.5**4

    def test_scales_with_the_batch(self, digits_folder, tmp_path, spy):
        run(digits_folder, tmp_path / "1", lr=1e-3, lr_batch_size=64)
        run(digits_folder, tmp_path / "2", lr=1e-3)
        assert [module.lr for module, _ in spy] == pytest.approx([1e-3 * 16 / 64, 1e-3])

    def test_cooldown_adds_epochs_at_the_lowest_rate(self, digits_folder, tmp_path):
        run(digits_folder, tmp_path, epochs=3, cooldown_epochs=2, lr=1e-3, min_lr=1e-5, warmup_epochs=0)
        rates = [float(row["lr"]) for row in rows(tmp_path)]
        assert len(rates) == 5
        assert rates[3:] == pytest.approx([1e-5, 1e-5])

    def test_constant_rate(self, digits_folder, tmp_path):
        run(digits_folder, tmp_path, epochs=3, lr=1e-4, min_lr=1e-4, warmup_epochs=0)
        assert [float(row["lr"]) for row in rows(tmp_path)] == pytest.approx([1e-4] * 3)

    def test_unknown_optimizer(self, digits_folder, tmp_path):
        with pytest.raises(ValueError, match=r"--optimizer: timm has no 'adamx'; did you mean adamax"):
            run(digits_folder, tmp_path / "out", optimizer="adamx")
        assert not (tmp_path / "out").exists()


class TestEpochSteps:
    def test_an_epoch_is_as_many_steps(self, digits_folder, tmp_path, spy):
        result = run(digits_folder, tmp_path, epochs=3, epoch_steps=7)
        assert (spy[0][1].global_step, result.epochs) == (21, 3)
        found = rows(tmp_path)
        assert [row["epoch"] for row in found] == ["1", "2", "3"]
        assert all(float(row["val_loss"]) > 0 for row in found)
        cosine = [2e-3 * (16 / 64) ** 0.5 * factor for factor in (1, 0.01)]
        rate = cosine[1] + 0.5 * (cosine[0] - cosine[1]) * (1 + np.cos(np.pi * 7 / 21))
        assert float(found[0]["lr"]) == pytest.approx(rate)

    def test_fewer_images_than_a_batch(self, digits_folder, tmp_path, spy):
        run(digits_folder, tmp_path, epoch_steps=3, batch_size=128, epochs=2)
        module, trainer = spy[0]
        assert module.images < 128
        assert trainer.global_step == 6
        assert [len(batch) for batch in trainer.train_dataloader] == [128, 128, 128]

    def test_of_whole_passes_is_the_training_without_it(self, digits_folder, tmp_path):
        options = dict(epochs=2, batch_size=9, val_fraction=0.3)  # 63 images
        assert run(digits_folder, tmp_path / "passes", **options).images["train"] == 63
        run(digits_folder, tmp_path / "steps", epoch_steps=7, **options)
        passes, steps = (read_weights(tmp_path / name / "model.safetensors") for name in ("passes", "steps"))
        assert all(torch.equal(passes[name], steps[name]) for name in passes)

    def test_shards(self, digits_shards, tmp_path):
        with pytest.raises(ValueError, match="--epoch-steps needs images in any order, which shards do not give"):
            run(digits_shards, tmp_path, epoch_steps=3)

    def test_quick(self, digits_folder, tmp_path, spy):
        run(digits_folder, tmp_path, quick=True, epochs=10, epoch_steps=16_000)
        assert spy[0][1].global_step == 16


class TestFreezing:
    def test_frozen_parts_stay_as_they_are(self, digits_folder, tmp_path):
        run(digits_folder, tmp_path / "1", model="van_pico")
        settings = dict(model=None, checkpoint=str(tmp_path / "1"), freeze="stem,stages.0-2", lr=0.01)
        run(digits_folder, tmp_path / "2", **settings)
        before, after = (read_weights(tmp_path / run / "model.safetensors") for run in "12")
        for name in before:
            frozen = name.startswith(("stem", "stages.0", "stages.1", "stages.2"))
            if frozen:  # running statistics too
                assert torch.equal(before[name], after[name]), name
        assert not torch.equal(before["head.fc.weight"], after["head.fc.weight"])

    def test_ranges(self):
        model = create_model("van_pico")
        assert freeze(model, "stages.1-2") == [model.stages[1], model.stages[2]]
        trained = {name.split(".")[1] for name, p in model.stages.named_parameters(prefix="s") if p.requires_grad}
        assert trained == {"0", "3"}

    @pytest.mark.parametrize(
        ("parts", "message"),
        [
            ("stages.0-9", "no part 'stages.4'; it has stem, stages"),
            ("stag", "no part 'stag'"),
            ("", "no part ''"),
            ("stages.2-1", "no part 'stages.2-1'"),
            ("stem,stages.0-3,norm,head", "leaves nothing to train"),
        ],
    )
    def test_mistakes(self, parts, message):
        model = create_model("van_pico")
        parts = ",".join(part for part in parts.split(",") if part != "norm" or hasattr(model, "norm"))
        with pytest.raises(ValueError, match=message):
            freeze(model, parts)


class TestDistillation:
    @pytest.fixture
    def teacher(self):
        model = nn.Sequential(nn.Flatten(), nn.Linear(12, 4))
        return Trained(
            model,
            "linear",
            find_task("classification"),
            list("abcd"),
            list("abcd"),
            {"mean": (0.5,) * 3, "std": (0.25,) * 3},
        )

    def test_soft(self, teacher):
        torch.manual_seed(0)
        images, logits, loss = torch.randn(5, 3, 2, 2), torch.randn(5, 4), torch.tensor(0.7)
        result = Teacher(teacher, (0.4,) * 3, (0.2,) * 3, "soft", weight=0.3, temperature=2.0).teach(
            loss, logits, images
        )
        teacher_logits = teacher.model((images * 0.2 + 0.4 - 0.5) / 0.25) / 2
        divergence = (
            (teacher_logits.softmax(1) * (teacher_logits.log_softmax(1) - (logits / 2).log_softmax(1))).sum(1).mean()
        )
        assert result.item() == pytest.approx((0.7 * 0.7 + 0.3 * 4 * divergence).item(), rel=1e-5)

    def test_hard(self, teacher):
        torch.manual_seed(0)
        images, logits, loss = torch.randn(5, 3, 2, 2), torch.randn(5, 4), torch.tensor(0.7)
        result = Teacher(teacher, (0.5,) * 3, (0.25,) * 3, "hard", weight=0.3).teach(loss, logits, images)
        expected = 0.7 * 0.7 + 0.3 * F.cross_entropy(logits, teacher.model(images).argmax(1))
        assert result.item() == pytest.approx(expected.item(), rel=1e-5)

    def test_teacher_has_a_say_in_every_step(self):
        torch.manual_seed(0)
        model, batch = (
            nn.Sequential(nn.Flatten(), nn.Linear(12, 3)),
            Batch(torch.randn(4, 3, 2, 2), torch.tensor([0, 1, 2, 0]), [], []),
        )
        steps = []
        for teacher in (
            None,
            SimpleNamespace(teach=lambda loss, logits, images: 2 * loss + logits.sum() + images.sum()),
        ):
            steps.append(ClassificationObjective(TrainConfig(), 3, teacher)(model, batch)["loss"].item())
        logits = model(batch.images)
        assert steps[1] == pytest.approx(2 * steps[0] + logits.sum().item() + batch.images.sum().item(), rel=1e-5)

    @pytest.fixture(scope="class")
    def teacher_run(self, digits_folder, tmp_path_factory):
        torch.set_num_threads(1)
        return run(digits_folder, tmp_path_factory.mktemp("teacher"), epochs=8, batch_size=8).output

    @pytest.mark.parametrize("kind", ["soft", pytest.param("hard", marks=pytest.mark.slow)])
    def test_student_follows_the_teacher_alone(self, digits_folder, tmp_path, teacher_run, kind):
        settings = dict(teacher_checkpoint=str(teacher_run), distillation=kind, distillation_weight=1.0)
        result = run(digits_folder, tmp_path / "student", epochs=6, batch_size=8, seed=1, **settings)
        assert result.metrics["top1"] > 60
        assert not any("teacher" in name for name in torch.load(tmp_path / "student/last.ckpt")["state_dict"])

    def test_teacher_with_its_published_weights(self, digits_folder, tmp_path, monkeypatch, spy):
        torch.manual_seed(1)
        published = create_model("van_pico", num_classes=3)
        torch.save({"state_dict": published.state_dict()}, tmp_path / "van.pth")
        asked = []

        def download(name, **kwargs):
            asked.append((name, kwargs))
            return create_model(
                name, num_classes=3, pretrained_cfg_overlay={"file": str(tmp_path / "van.pth")}, **kwargs
            )

        monkeypatch.setattr(loading, "create_model", download)
        run(digits_folder, tmp_path / "student", teacher="van_pico")
        assert asked == [("van_pico", {"pretrained": True})]
        weight = spy[0][0].objective.teacher.model.state_dict()["model.stem.conv.weight"]
        assert torch.equal(weight, published.stem.conv.weight)

    def test_of_another_task(self, teacher_run, tmp_path, monkeypatch):
        trained = load_trained(teacher_run)
        other = dataclasses.replace(trained, task=find_task("multilabel"))
        monkeypatch.setattr(objective, "load_trained", lambda *_: other)
        with pytest.raises(ValueError, match="is of the task multilabel, not classification"):
            run("digits", tmp_path / "student", teacher_checkpoint=str(teacher_run), hflip=None)

    def test_other_number_of_classes(self, teacher_run, tmp_path):
        with pytest.raises(ValueError, match="has 3 classes, the data 10"):
            run("digits", tmp_path / "student", teacher_checkpoint=str(teacher_run), hflip=None)


class TestMixing:
    @pytest.mark.parametrize("option", ["mixup", "cutmix"])
    def test_changes_what_is_learned(self, digits_folder, tmp_path, option):
        plain = run(digits_folder, tmp_path / "1")
        mixed = run(digits_folder, tmp_path / "2", **{option: 1.0})
        never = run(digits_folder, tmp_path / "3", mixup_prob=0.0, **{option: 1.0})
        assert float(rows(mixed.output)[0]["train_loss"]) > float(rows(plain.output)[0]["train_loss"])
        assert never.metrics["loss"] == pytest.approx(plain.metrics["loss"], rel=1e-4)

    @pytest.mark.parametrize("option", ["mixup", "cutmix"])
    def test_odd_batch_mixes_all_but_one_as_timm_does(self, option):
        images, labels = torch.arange(5.0).view(5, 1, 1, 1).repeat(1, 3, 32, 32) + 1, torch.arange(5)
        config = TrainConfig(**{option: 8.0}, label_smoothing=0.0)
        objective = ClassificationObjective(config, 5)
        np.random.seed(2)
        mixed, targets = objective.mix(images.clone(), labels)
        assert mixed.shape == images.shape
        assert targets.shape == (5, 5)
        for place, (image, target) in enumerate(zip(mixed, targets, strict=True)):
            partner = -place % 5
            share = target[place].item()
            assert share == pytest.approx(1) if place == partner else 0.1 < share < 0.9
            assert target[partner].item() == pytest.approx(1 if place == partner else 1 - share)
            assert image.mean().item() == pytest.approx(share * (place + 1) + (1 - share) * (partner + 1), rel=1e-5)

    @pytest.mark.parametrize("option", ["mixup", "cutmix"])
    def test_labels_are_smoothed_too(self, option):
        config = TrainConfig(**{option: 1.0}, label_smoothing=0.3)
        objective = ClassificationObjective(config, 5)
        np.random.seed(0)
        _, targets = objective.mix(torch.randn(4, 3, 8, 8), torch.tensor([0, 1, 2, 3]))
        assert targets[:, 4].tolist() == pytest.approx([0.3 / 5] * 4)  # a class that none of the images shows
        assert targets.sum(1).tolist() == pytest.approx([1.0] * 4)
        logits = torch.randn(4, 5)
        expected = -(targets * logits.log_softmax(1)).sum(1).mean()
        assert objective.criterion(logits, targets).item() == pytest.approx(expected.item(), rel=1e-5)

    def test_every_epoch_mixes_anew(self, digits_folder, tmp_path, monkeypatch):
        seen, original = [], TrainingModule.on_train_batch_start

        def note(self, batch, batch_idx):
            original(self, batch, batch_idx)
            seen.append(torch.rand(1).item())

        monkeypatch.setattr(TrainingModule, "on_train_batch_start", note)
        run(digits_folder, tmp_path, mixup=0.5, epochs=2)
        assert len(seen) == len(set(seen)) == 2 * 4

    @pytest.mark.parametrize("changes", [
        dict(batch_size=15),
        dict(batch_size=30, accumulate=2),
        dict(batch_size=64),  # more than there are images
        dict(batch_size=64, accumulate=2),  # the last part has 13 images
        dict(batch_size=15, quick=True),
    ])  # fmt: skip
    def test_odd_batches_train(self, digits_folder, tmp_path, changes):
        result = run(digits_folder, tmp_path, mixup=0.5, cutmix=0.5, val_fraction=0.5, **changes)
        assert result.images["train"] == 45
        assert result.metrics["epoch"] == result.epochs

    def test_odd_batches_of_shards_train(self, digits_shards, tmp_path):
        result = run(digits_shards, tmp_path, mixup=0.5, batch_size=17, val_fraction=0.3)
        assert result.metrics["epoch"] == 1

    def test_single_images_have_nothing_to_be_mixed_with(self, digits_folder, tmp_path):
        with pytest.raises(ValueError, match="--mixup and --cutmix need two images at a time on each device"):
            run(digits_folder, tmp_path, mixup=0.1, batch_size=6, accumulate=6)


class TestLosses:
    @pytest.mark.parametrize("loss", ["ce", "bce", "asl"])
    def test_each_of_them_teaches(self, digits_folder, tmp_path, loss):
        result = run(digits_folder, tmp_path, loss=loss, epochs=6, batch_size=8)
        assert result.metrics["top1"] > 60

    def test_asymmetric_loss_takes_no_mixture(self, digits_folder, tmp_path):
        with pytest.raises(ValueError, match="--loss asl takes no mixed labels"):
            run(digits_folder, tmp_path, loss="asl", mixup=0.1)


class TestValidation:
    def test_every_other_epoch_and_the_last(self, digits_folder, tmp_path):
        run(digits_folder, tmp_path, epochs=5, val_every=2)
        assert [bool(row["val_top1"]) for row in rows(tmp_path)] == [False, True, False, True, True]


class TestData:
    def test_balance_reaches_the_sampler(self, digits_folder, tmp_path, spy):
        for path in sorted((digits_folder / "zero").iterdir())[:5]:
            target = tmp_path / "data/zero" / path.name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(path.read_bytes())
        (tmp_path / "data/one").symlink_to(digits_folder / "one")
        run(tmp_path / "data", tmp_path / "out", balanced=True, batch_size=8)
        sampler = spy[0][1].train_dataloader.sampler
        labels = torch.tensor(spy[0][1].train_dataloader.dataset.samples.labels)
        weights = torch.zeros(2).index_add(0, labels, sampler.weights.float())
        assert weights.tolist() == pytest.approx([1, 1])

    def test_repeated_augmentation_reaches_the_sampler(self, digits_folder, tmp_path, spy):
        run(digits_folder, tmp_path, repeated_augmentation=3)
        assert spy[0][1].train_dataloader.sampler.repeats == 3

    @pytest.mark.parametrize(("limit", "stops"), [("1%", True), ("0.5", False), (None, False)])
    def test_unreadable_files_up_to_a_limit(self, digits_folder, tmp_path, limit, stops):
        shutil.copytree(digits_folder, tmp_path / "data")
        for path in sorted((tmp_path / "data/one").iterdir())[:9]:
            path.write_bytes(b"no image")
        if not stops:
            assert len(run(tmp_path / "data", tmp_path / "out", max_bad=limit, epochs=2).unreadable) == 9
            return
        with pytest.raises(TrainingStopped, match=r"of 72 images cannot be read, more than --max-bad 1% allows"):
            run(tmp_path / "data", tmp_path / "out", max_bad=limit)

    @pytest.mark.parametrize("limit", ["x", "-1%", "101%", "1.5"])
    def test_limit_that_is_none(self, limit):
        with pytest.raises(ValueError, match=r"--max-bad must be a part such as 1% or 0\.01"):
            TrainConfig(max_bad=limit)

    @pytest.mark.parametrize("loss", [None, pytest.param("asl", marks=pytest.mark.slow)])
    def test_several_labels_per_image(self, tmp_path, loss):
        torch.manual_seed(0)
        lines = ["path,labels"]
        for index in range(48):
            red, green = bool(index & 1), bool(index & 2)
            Image.new("RGB", (32, 32), (255 * red, 255 * green, 99)).save(tmp_path / f"{index}.png")
            lines.append(f"{index}.png,{'|'.join(['red'] * red + ['green'] * green)}")
        (tmp_path / "labels.csv").write_text("\n".join(lines) + "\n")
        settings = dict(epochs=8, batch_size=8, val_fraction=0.25, color_jitter=0.0, loss=loss)
        result = run(tmp_path / "labels.csv", tmp_path / "out", **settings)
        assert result.metrics["map"] > 90
        assert set(rows(tmp_path / "out")[0]) >= {"val_map", "val_loss"}
        prediction = Predictor(tmp_path / "out", device="cpu", engine="torch")(tmp_path / "3.png")[0]  # red and green
        assert abs(sum(prediction.probabilities) - 1) > 1e-3  # each on its own, not one of all
        with pytest.raises(ValueError, match="--mixup is for classification"):
            run(tmp_path / "labels.csv", tmp_path / "other", mixup=0.1)


class TestFineTuning:
    def test_recipe_from_a_run_of_other_classes(self, digits_folder, tmp_path, spy):
        start = run(digits_folder, tmp_path / "start", model="van_pico")
        few = tmp_path / "few"
        for name in ("one", "two"):
            shutil.copytree(digits_folder / name, few / name)
        config = TrainConfig.from_recipe(
            "finetune", data=str(few), checkpoint=str(start.output), output=str(tmp_path / "tuned"), epochs=1,
            warmup_epochs=0, img_size=32, device="cpu", workers=0, lr=1e-12, warmup_lr=1e-12, min_lr=0.0, hflip=0.0,
        )  # fmt: skip
        train(config, Console(file=io.StringIO()))
        assert read_info(tmp_path / "tuned/model.safetensors").model == "van_pico"
        before, after = (read_weights(path / "model.safetensors") for path in (start.output, tmp_path / "tuned"))
        assert after["head.fc.weight"].shape[0] == 2
        for name, tensor in before.items():
            if not name.startswith("head.") and "running" not in name and "num_batches" not in name:
                assert torch.allclose(after[name], tensor, atol=1e-8), name


class TestProgress:
    def test_bar_on_a_terminal(self, digits_folder, tmp_path):
        text = io.StringIO()
        console = Console(file=text, force_terminal=True, width=100, color_system=None)
        train(TrainConfig(str(digits_folder), output=str(tmp_path / "run"), **SETTINGS | dict(epochs=2)), console)
        bars = [line for line in re.split(r"[\r\n]", text.getvalue()) if "GiB" in line]
        assert bars
        assert re.search(r"epoch 2/2 .* [\d,]+ images/s, \d+\.\d GiB \d:\d\d:\d\d", bars[-1])

    def test_no_bar_in_a_file(self, digits_folder, tmp_path):
        text = io.StringIO()
        train(TrainConfig(str(digits_folder), output=str(tmp_path / "run"), **SETTINGS), Console(file=text))
        assert "GiB" not in text.getvalue()
        assert "epoch 1/1" in text.getvalue()


class TestParts:
    """What an objective returns beside the loss."""

    def test_means_reach_the_log_and_the_loggers(self, digits_folder, tmp_path, monkeypatch):
        original, seen = ClassificationObjective.__call__, []

        def with_parts(self, model, batch):
            parts = original(self, model, batch) | {"steps": torch.tensor(float(len(seen)))}
            seen.append(len(batch))
            return parts | ({"first": parts["loss"]} if len(seen) == 1 else {})

        plain = run(digits_folder, tmp_path / "plain", epochs=2)
        monkeypatch.setattr(ClassificationObjective, "__call__", with_parts)
        result = run(digits_folder, tmp_path / "parts", epochs=2, loggers="tensorboard")
        steps = len(seen) // 2
        first, second = rows(result.output)
        assert float(first["train_steps"]) == (steps - 1) / 2
        assert float(second["train_steps"]) == steps + (steps - 1) / 2
        assert float(first["train_first"]) > 0
        assert second["train_first"] == ""
        (events,) = (result.output / "tensorboard").glob("events.out.tfevents.*")
        assert b"train_steps" in events.read_bytes()
        without = [
            {name: value for name, value in row.items() if name in rows(plain.output)[0]} for row in (first, second)
        ]
        for row, other in zip(without, rows(plain.output), strict=True):
            assert {**row, "train_images_per_second": 0} == {**other, "train_images_per_second": 0}

    def test_without_parts_nothing_is_added(self, digits_folder, tmp_path):
        run(digits_folder, tmp_path)
        assert [name for name in rows(tmp_path)[0] if name.startswith("train_")] == [
            "train_loss",
            "train_images_per_second",
        ]
        assert set(torch.load(tmp_path / "last.ckpt", weights_only=True)["epoch_so_far"]) == {"loss_sum", "loss_steps"}


class TestEngine:
    def test_bf16_is_that_of_autocast(self, digits_folder, tmp_path, spy, monkeypatch):
        """The same losses as a plain loop of torch's autocast around the model, whose weights stay in float32."""
        losses, expected, original = [], [], TrainingModule.training_step

        def step(self, batch, batch_idx):
            model = copy.deepcopy(self.model)
            with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
                logits = model(batch.images.to(memory_format=torch.channels_last))
            assert logits.dtype == torch.bfloat16
            smooth = 0.9 * F.one_hot(batch.targets, 3) + 0.1 / 3
            expected.append(-(smooth * logits.float().log_softmax(1)).sum(1).mean().item())
            losses.append(original(self, batch, batch_idx))
            return losses[-1]

        monkeypatch.setattr(TrainingModule, "training_step", step)
        low = run(digits_folder, tmp_path, precision="bf16")
        assert spy[0][1].precision == "bf16-mixed"
        assert [loss.item() for loss in losses] == pytest.approx(expected, rel=1e-5)
        assert all(t.dtype != torch.bfloat16 for t in read_weights(low.output / "model.safetensors").values())

    @pytest.mark.parametrize(("options", "where"), [({}, "on a CPU"), ({"strategy": "fsdp"}, "with --strategy fsdp")])
    def test_refuses_fp16_where_it_would_be_something_else(self, digits_folder, tmp_path, options, where):
        with pytest.raises(ValueError, match=f"--precision fp16 is not for training {where}: bf16 is"):
            run(digits_folder, tmp_path / "1", precision="fp16", **options)

    def test_compiled_on_a_gpu_only_unless_told(self):
        assert TrainConfig().compile == "auto"
        config = TrainConfig(compile="auto")
        assert [loop._compiles(config, torch.device(kind)) for kind in ("cpu", "cuda")] == [False, True]
        assert loop._compiles(TrainConfig(compile="always"), torch.device("cpu"))
        assert not loop._compiles(TrainConfig(compile="never"), torch.device("cuda"))

    def test_weights_and_images_are_channels_last(self, digits_folder, tmp_path, spy):
        run(digits_folder, tmp_path / "1", model="van_pico")
        weight = spy[0][0].model.stem.conv.weight
        assert weight.is_contiguous(memory_format=torch.channels_last)

    def test_checkpointing_of_activations_changes_nothing(self, digits_folder, tmp_path, spy):
        plain = run(digits_folder, tmp_path / "1", model="transnext_pico")
        saved = run(digits_folder, tmp_path / "2", model="transnext_pico", grad_checkpointing=True)
        assert saved.metrics["loss"] == pytest.approx(plain.metrics["loss"], rel=1e-5)
        assert all(stage.grad_checkpointing for stage in spy[1][0].model.stages)
        assert not any(stage.grad_checkpointing for stage in spy[0][0].model.stages)

    @pytest.mark.slow
    def test_compiled_model_learns_the_same(self, digits_folder, tmp_path):
        plain = run(digits_folder, tmp_path / "1", model="van_pico")
        fast = run(digits_folder, tmp_path / "2", model="van_pico", compile="always")
        assert fast.metrics["loss"] == pytest.approx(plain.metrics["loss"], rel=1e-2)
        assert not any("_orig_mod" in name for name in read_weights(fast.output / "model.safetensors"))

    def test_sync_bn_needs_gpus(self, digits_folder, tmp_path):
        with pytest.raises(ValueError, match="--sync-bn always: torch has it on GPUs only"):
            run(digits_folder, tmp_path, sync_bn="always")

    def test_quick_is_the_same_run_but_smaller(self, digits_folder, tmp_path, spy):
        settings = dict(quick=True, epochs=300, cooldown_epochs=10, img_size=224, batch_size=1024, mixup=0.8, ema=0.99)
        result = run(digits_folder, tmp_path, **settings)
        assert result.epochs == 2
        module, trainer = spy[0]
        assert module.objective.mixup is not None
        assert trainer.train_dataloader.batch_size == 16
        assert trainer.global_step <= 16

    def test_tensorboard(self, digits_folder, tmp_path):
        run(digits_folder, tmp_path, loggers="tensorboard")
        (events,) = (tmp_path / "tensorboard").glob("events.out.tfevents.*")
        assert b"layer_decay" in events.read_bytes()  # the run's options

    @pytest.mark.parametrize("name", ["wandb", "mlflow"])
    def test_other_loggers_get_options_and_figures(self, digits_folder, tmp_path, monkeypatch, name):
        class Recorder(lightning.loggers.CSVLogger):
            def __init__(self, **where):
                super().__init__(tmp_path / "recorded")
                self.where = where
                made.append(self)

        made = []
        monkeypatch.setattr(lightning.loggers, {"wandb": "WandbLogger", "mlflow": "MLFlowLogger"}[name], Recorder)
        run(digits_folder, tmp_path / "out", loggers=name, epochs=2)
        recorder = made[0]
        assert recorder.where.get("name", recorder.where.get("experiment_name")) == "out"
        assert recorder.experiment.hparams["epochs"] == 2
        with open(Path(recorder.log_dir) / "metrics.csv", newline="") as file:
            logged = [row["val_loss"] for row in csv.DictReader(file)]
        assert logged == [row["val_loss"] for row in rows(tmp_path / "out")]

    def test_logger_that_is_not_installed(self, digits_folder, tmp_path, monkeypatch):
        monkeypatch.setitem(sys.modules, "wandb", None)
        with pytest.raises(ImportError, match="--loggers wandb needs the package"):
            run(digits_folder, tmp_path, loggers="wandb")

    def test_arguments_of_the_model(self, digits_folder, tmp_path):
        run(digits_folder, tmp_path, model="transnext_pico", model_args={"pool_size": 1})
        assert read_info(tmp_path / "model.safetensors").model_args == {"pool_size": 1}
        with pytest.raises(
            ValueError, match=r"transnext_pico: a checkpoint cannot hold the argument 'pol_size', only .*pool_size"
        ):
            run(digits_folder, tmp_path / "2", model="transnext_pico", model_args={"pol_size": 1})

    def test_drop_path_grows_over_the_blocks(self):
        model = timm.create_model("van_pico", drop_path_rate=0.3)
        rates = [m.drop_prob for m in model.modules() if type(m).__name__ == "DropPath"]
        assert rates == sorted(rates)
        assert max(rates) == pytest.approx(0.3)
