"""Write a model as one file for ONNX, OpenVINO or torch.export, and compare the file with PyTorch.

The file is kept only if it computes what the model does, for two sizes and two batches where these are open.
"""

from pathlib import Path

from glocal.cli.output import console
from glocal.deploy.config import ENDINGS, ExportConfig
from glocal.errors import ExistingPathError
from glocal.terminal import facts, line

CONFIG = ExportConfig
POSITIONAL: dict[str, str] = {}


def run(config: ExportConfig) -> int:
    from glocal.deploy.export_model import export_model
    from glocal.deploy.files import files_of
    from glocal.deploy.runtimes import require
    from glocal.files import check_target

    require(config.to)
    path = Path(config.output or f"{_stem(config)}{ENDINGS[config.to]}")
    check_target("--output", path)
    for file in files_of(path):
        if file.exists() and not config.overwrite:
            raise ExistingPathError(f"{file} exists: --overwrite replaces it")
    with console().status(line(f"writing {path} …")):
        result = export_model(config, path)
    error = f"{result.difference:.1e} standard deviations"
    compared = ", ".join("×".join(map(str, shape)) for shape in result.compared)
    kind = "RGB images, uint8 (B, H, W, 3)" if config.preprocess else "images (B, C, H, W), normalised"
    kind += "; their sizes (B, 2), before padding" if "sizes" in result.inputs else ""
    rows = {
        "takes": f"{kind}; open: " + (", ".join(result.open_axes) or "nothing"),
        "size": f"{result.megabytes:.1f} MB",
        "largest difference from PyTorch": f"{error}, of {compared}",
        "written in": f"{result.seconds:.0f} s",
    }
    console().print(facts(str(path), rows))
    return 0


def _stem(config: ExportConfig) -> str:
    if config.model is not None:
        return config.model.replace("/", "-")
    return Path(config.checkpoint).resolve().name.removesuffix(".safetensors")
