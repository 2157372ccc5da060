import pytest
import yaml

from glocal.training.config import TrainConfig
from glocal.training.run_folder import check_output, start_output

FILES = ["model.safetensors", "last.ckpt", "metrics.csv", "config.yaml", "train.log", "samples/a-0001_label-3.png"]
FOREIGN = ["notes.txt", "samples/mine.png", "model.safetensors.bak"]


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "samples").mkdir()
    return tmp_path


@pytest.mark.parametrize("name", FILES)
def test_every_file_of_a_run_is_protected(folder, name):
    (folder / name).touch()
    with pytest.raises(FileExistsError, match="holds a run already: give another --output, or --overwrite"):
        check_output(folder, overwrite=False)
    check_output(folder, overwrite=True)


def test_other_files_do_not_make_a_run(folder):
    for name in FOREIGN:
        (folder / name).touch()
    check_output(folder, overwrite=False)


def test_overwriting_removes_a_runs_files_only(folder):
    for name in FILES + FOREIGN:
        (folder / name).write_text("old")
    start_output(folder, TrainConfig())
    left = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    assert left == sorted([*FOREIGN, "config.yaml"])


def test_file_in_place_of_the_folder(folder):
    (folder / "out").touch()
    with pytest.raises(FileExistsError, match="is a file"):
        check_output(folder / "out", overwrite=True)


def test_config_can_be_used_again(folder):
    config = TrainConfig(model="van_b0", epochs=3, lr=1e-3)
    start_output(folder / "new" / "run", config)
    values = yaml.safe_load((folder / "new/run/config.yaml").read_text())
    assert TrainConfig(**values) == config
