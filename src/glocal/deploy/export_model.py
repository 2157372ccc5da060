"""Exporting a model with its metadata: the name, the classes, the task, and the preprocessing of its images."""

from pathlib import Path

import numpy as np

from glocal.data.preprocessing import Preprocessing
from glocal.deploy.calibration import calibration_images
from glocal.deploy.config import ExportConfig
from glocal.deploy.files import ExportResult, export
from glocal.deploy.graph import Maps, takes_sizes
from glocal.errors import InvalidValueError
from glocal.tasks.creation import create_model
from glocal.tasks.loading import load_trained


def export_model(config: ExportConfig, path: Path) -> ExportResult:
    """Write the file that a configuration asks for, with the metadata that its users need; see `export`."""
    metadata, names = {}, None
    if config.untrained:
        model = create_model(config.model)
        model = Maps(model) if config.features else model
        name, preprocessing = config.model, Preprocessing.of_model(model)
    else:
        trained = load_trained(config.checkpoint, config.model)
        name, preprocessing = trained.name, Preprocessing(**trained.preprocessing)
        metadata = {"task": trained.task.name} | trained.task.metadata(trained)
        if preprocessing.whole is not None:
            _check_whole(config)
        if config.features and not any(hasattr(trained.model, name) for name in ("maps", "forward_intermediates")):
            raise InvalidValueError(
                f"--features: the model of the task {trained.task.name} gives no maps of its stages"
            )
        model = Maps(trained.model) if config.features else trained.task.outputs(trained.model)
        names = None if config.features else getattr(trained.model, "output_names", trained.task.output_names)
    if config.img_size is not None:
        preprocessing = preprocessing.resized(config.img_size)
    metadata |= {"model": name, "preprocessing": preprocessing.to_dict(), "features": config.features}
    metadata["takes"] = "uint8 RGB images (B, H, W, 3)" if config.preprocess else "normalised images (B, C, H, W)"
    batch_size = config.batch_size or 1
    if takes_sizes(model):
        metadata["takes"] = "a normalised image (1, C, H, W), and its height and width before padding (1, 2)"
        if batch_size > 1:
            raise InvalidValueError("--batch-size: a file of a model that finds objects takes an image at a time")
    calibration = None
    if config.calibration is not None:
        images = calibration_images(config.calibration, config.calibration_images, preprocessing)
        whole = -(-len(images) // batch_size) * batch_size
        images = (images * batch_size)[:whole]
        calibration = [np.stack(images[first : first + batch_size]) for first in range(0, len(images), batch_size)]
    return export(
        model,
        path,
        config.to,
        config.open_axes,
        config.precision,
        preprocessing.input_size,
        batch_size,
        metadata,
        preprocessing if config.preprocess else None,
        calibration,
        names,
    )


def _check_whole(config: ExportConfig) -> None:
    """Raise ValueError for what is not built for a model that takes images whole, each of a size of its own."""
    for asked, name in ((config.preprocess, "--preprocess"), (config.precision == "int8", "--precision int8")):
        if asked:
            raise InvalidValueError(
                f"{name} is for models with images of one size, and this model takes images whole: "
                "`preprocessing` in the metadata of the file says how"
            )
