import pytest
import yaml

from glocal.training.config import TrainConfig
from glocal.training.run_folder import settle, start_output

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
        settle(folder, TrainConfig())
    assert settle(folder, TrainConfig(overwrite=True)) == (TrainConfig(overwrite=True), None)


@pytest.mark.parametrize("name", [*FOREIGN, "config.yaml", "train.log"])
def test_other_files_do_not_make_a_run(folder, name):
    (folder / name).write_text("")
    assert settle(folder, TrainConfig()) == (TrainConfig(), None)


def test_nothing_to_resume(folder):
    with pytest.raises(FileNotFoundError, match=r"--resume: .* holds no run"):
        settle(folder, TrainConfig(resume=True))


def test_overwriting_removes_a_runs_files_only(folder):
    for name in FILES + FOREIGN:
        (folder / name).write_text("old")
    start_output(folder, TrainConfig())
    left = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    assert left == sorted([*FOREIGN, "config.yaml"])


def test_file_in_place_of_the_folder(folder):
    (folder / "out").touch()
    with pytest.raises(FileExistsError, match="is a file"):
        settle(folder / "out", TrainConfig(overwrite=True))


def test_config_can_be_used_again(folder):
    config = TrainConfig(model="van_b0", epochs=3, lr=1e-3)
    start_output(folder / "new" / "run", config)
    values = yaml.safe_load((folder / "new/run/config.yaml").read_text())
    assert TrainConfig(**values) == config
