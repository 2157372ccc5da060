"""Using a trained model."""

import sys
from importlib import import_module
from typing import TYPE_CHECKING

# OpenVINO and NNCF report how they are used to their makers, unless a file in the user's home says no. Without this
# module they report nothing. It has to be out of the way before they are imported.
sys.modules.setdefault("openvino_telemetry", None)

if TYPE_CHECKING:
    from glocal.deploy.engine import compile
    from glocal.deploy.files import export
    from glocal.deploy.reparameterize import fuse

__all__ = ["compile", "export", "fuse"]

_MODULES = {"compile": "engine", "export": "files", "fuse": "reparameterize"}


def __getattr__(name: str):
    # Late, as `glocal predict --help` reads this package's options without torch.
    if name in _MODULES:
        return getattr(import_module(f"glocal.deploy.{_MODULES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
