from dataclasses import fields

import pytest
import yaml

from glocal.training.config import TrainConfig
from glocal.training.run_folder import make, resolve_run, start_output

FILES = ["model.safetensors", "last.ckpt", "metrics.csv", "config.yaml", "train.log", "samples/a-0001_label-3.png"]
FILES += ["summary.json", "model.raw.safetensors", "tensorboard/events.out.tfevents.1"]
FOREIGN = ["notes.txt", "samples/mine.png", "model.safetensors.bak"]


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "samples").mkdir()
    (tmp_path / "tensorboard").mkdir()
    return tmp_path


@pytest.mark.parametrize("name", ["model.safetensors", "last.ckpt"])
def test_what_took_work_is_protected(folder, name):
    (folder / name).touch()
    with pytest.raises(FileExistsError, match="holds a run already: give another --output, or --overwrite"):
        resolve_run(folder, TrainConfig())
    assert resolve_run(folder, TrainConfig(overwrite=True)) == (TrainConfig(overwrite=True), None)


@pytest.mark.parametrize("name", [*FOREIGN, "config.yaml", "train.log"])
def test_other_files_do_not_make_a_run(folder, name):
    (folder / name).write_text("")
    assert resolve_run(folder, TrainConfig()) == (TrainConfig(), None)


def test_nothing_to_resume(folder):
    with pytest.raises(FileNotFoundError, match=r"--resume: .* holds no run"):
        resolve_run(folder, TrainConfig(resume=True))


def test_overwriting_removes_a_runs_files_only(folder):
    for name in FILES + FOREIGN:
        (folder / name).write_text("old")
    start_output(folder, TrainConfig())
    left = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    assert left == sorted([*FOREIGN, "config.yaml"])


# Of every option that says what a run computes, a value that is not its default.
COMPUTES = dict(
    task="multilabel", data_args={"masks": "labels"}, group="patient",
    data="photos", model="van_b0", model_args={"in_chans": 1}, quick=True, epochs=3, seed=7, img_size=96, batch_size=24,
    accumulate=2, optimizer="sgd", lr=0.002, lr_batch_size=256, min_lr=1e-6, warmup_lr=1e-6, warmup_epochs=1.0,
    cooldown_epochs=1, weight_decay=0.1, layer_decay=0.9, clip_grad=1.0, loss="bce", label_smoothing=0.2, mixup=0.3,
    cutmix=0.3, mixup_prob=0.4, mixup_switch_prob=0.4, drop_path=0.3, ema=0.99, ema_warmup=True, val_fraction=0.3,
    val_every=2, pretrained=True, checkpoint="runs/other", freeze="stem", teacher="van_b1", teacher_checkpoint="runs/t",
    distillation_weight=0.7, distillation_temperature=2.0, crop_scale=0.5, train_interpolation="bilinear",
    crop_pct=0.8, crop_mode="squash", hflip=0.4, color_jitter=0.2, auto_augment="rand-m5", random_erasing=0.2,
    repeated_augmentation=3, balanced=True, strict=True, precision="bf16", compile="never", grad_checkpointing=True,
    devices=2, num_nodes=2, strategy="fsdp", sync_bn="never", schedule="poly", epoch_steps=5, warmup_steps=3,
    warmup_ratio=0.01, decay_1d=True, parameter_rules=["*norm* decay=0"],
    head="upernet", mask_loss="ce+dice", aux_weight=0.2, class_weights="sqrt", whole="96,384", size_multiple=32,
    size_align="resize", window="96,64", resize_range="0.5,1.5", max_class_share=0.9, photometric=False,
    label_resize="nearest", segment_threshold=0.7, overlap_threshold=0.6,
    head_args={"width": 64}, train_scales="0.8,1", detr_crop=True, scale_jitter="0.5,2", copy_paste=0.5, mosaic=0.5,
    score_threshold=0.5, skip_empty=True, skip_small=32,
)  # fmt: skip
# Of options that ask for another: the options of the run, and those of the next command.
CHANGED_WITH = {
    "distillation": [dict(distillation=kind, teacher="van_b1") for kind in ("soft", "hard")],
    "poly_power": [dict(schedule="poly", poly_power=power) for power in (None, 0.5)],
    "milestones": [dict(schedule="multistep", milestones=epochs) for epochs in ("2", "3")],
}
# What may differ in a run that goes on: where it writes, and how it is computed.
MAY_CHANGE = {"output", "overwrite", "resume", "show_batch", "device", "workers", "save_every_minutes", "max_bad"}
MAY_CHANGE |= {"loggers", "trust"}


def test_the_options_that_a_run_goes_on_with_are_all_told_apart():
    assert {*COMPUTES, *CHANGED_WITH} == {field.name for field in fields(TrainConfig)} - MAY_CHANGE


@pytest.mark.parametrize("resume", [False, True], ids=["same command", "--resume"])
@pytest.mark.parametrize("name", [*COMPUTES, *CHANGED_WITH])
def test_a_run_goes_on_with_no_other_option(folder, name, resume):
    before, changes = CHANGED_WITH.get(name) or ({}, {name: COMPUTES[name]})
    start_output(folder, TrainConfig(**before))
    (folder / "last.ckpt").touch()
    with pytest.raises(FileExistsError, match=rf"other options \(--{name.replace('_', '-')} .*: give another --output"):
        resolve_run(folder, TrainConfig(**changes, resume=resume))


def test_file_in_place_of_the_folder(folder):
    (folder / "out").touch()
    with pytest.raises(FileExistsError, match="is a file"):
        resolve_run(folder / "out", TrainConfig(overwrite=True))


def test_config_can_be_used_again(folder):
    config = TrainConfig(model="van_b0", epochs=3, lr=1e-3)
    make(folder / "new" / "run")
    start_output(folder / "new" / "run", config)
    values = yaml.safe_load((folder / "new/run/config.yaml").read_text())
    assert TrainConfig(**values) == config
