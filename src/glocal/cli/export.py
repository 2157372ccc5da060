"""Write a model as one file for ONNX, OpenVINO or torch.export, and compare the file with PyTorch.

The file is kept only if it computes what the model does, for two sizes and two batches where these are open.
"""

from dataclasses import replace
from pathlib import Path

from glocal.cli.output import console
from glocal.deploy.config import ENDINGS, ExportConfig
from glocal.terminal import facts, line

CONFIG = ExportConfig
POSITIONAL: dict[str, str] = {}


def run(config: ExportConfig) -> int:
    from glocal.deploy.files import files_of
    from glocal.deploy.runtimes import require
    from glocal.tasks.checkpoint import check_target

    require(config.to)
    path = Path(config.output or f"{_stem(config)}{ENDINGS[config.to]}")
    check_target("--output", path)
    for file in files_of(path):
        if file.exists() and not config.overwrite:
            raise FileExistsError(f"{file} exists: --overwrite replaces it")
    with console().status(line(f"writing {path} …")):
        result = _export(config, path)
    error = f"{result.difference:.1e} standard deviations"
    compared = ", ".join("×".join(map(str, shape)) for shape in result.compared)
    kind = "RGB images, uint8 (B, H, W, 3)" if config.preprocess else "images (B, C, H, W), normalised"
    rows = {
        "takes": f"{kind}; open: " + (", ".join(config.open_axes) or "nothing"),
        "size": f"{result.megabytes:.1f} MB",
        "largest difference from PyTorch": f"{error}, of {compared}",
        "written in": f"{result.seconds:.0f} s",
    }
    console().print(facts(str(path), rows))
    return 0


def _export(config: ExportConfig, path: Path):
    import numpy as np

    from glocal.data.preprocessing import Preprocessing
    from glocal.deploy.calibration import calibration_images
    from glocal.deploy.files import export
    from glocal.deploy.graph import Maps
    from glocal.tasks.classifier import create_model, load_classifier

    metadata = {}
    if config.untrained:
        model = create_model(config.model)
        name, preprocessing = config.model, Preprocessing.of_model(model)
    else:
        classifier = load_classifier(config.checkpoint, config.model)
        name, preprocessing = classifier.name, Preprocessing(**classifier.preprocessing)
        metadata["class_names"], metadata["descriptions"] = classifier.class_names, classifier.descriptions
        metadata["multi_label"] = classifier.multi_label
        model = classifier.model
    if config.img_size is not None:
        size = (preprocessing.input_size[0], config.img_size, config.img_size)
        preprocessing = replace(preprocessing, input_size=size)
    metadata |= {"model": name, "preprocessing": preprocessing.to_dict(), "features": config.features}
    metadata["takes"] = "uint8 RGB images (B, H, W, 3)" if config.preprocess else "normalised images (B, C, H, W)"
    batch_size = config.batch_size or 1
    calibration = None
    if config.calibration is not None:
        images = calibration_images(config.calibration, config.calibration_images, preprocessing)
        whole = -(-len(images) // batch_size) * batch_size
        images = (images * batch_size)[:whole]
        calibration = [np.stack(images[first : first + batch_size]) for first in range(0, len(images), batch_size)]
    return export(
        Maps(model) if config.features else model,
        path,
        config.to,
        config.open_axes,
        config.precision,
        preprocessing.input_size,
        batch_size,
        metadata,
        preprocessing if config.preprocess else None,
        calibration,
    )


def _stem(config: ExportConfig) -> str:
    if config.model is not None:
        return config.model.replace("/", "-")
    return Path(config.checkpoint).resolve().name.removesuffix(".safetensors")
