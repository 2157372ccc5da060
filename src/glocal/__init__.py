"""Vision backbones that mix global attention and local convolution, behind timm's interface.

Importing the package registers every model with timm: `timm.create_model("transxnet_t")`.
"""

import sys
from pathlib import Path

__version__ = "0.1.0"

# The `glocal` command answers `--help` without loading torch: its subcommands import the models when they need them.
_is_command = Path(sys.argv[0]).stem == "glocal" or sys.orig_argv[1:3] == ["-m", "glocal"]
if not _is_command:
    from glocal.backbone import Backbone
    from glocal.models import model_names, published_top1

    __all__ = ["Backbone", "create", "model_names", "published_top1", "register_task"]


def __getattr__(name: str):
    if name == "create":
        from glocal.models.create import create

        return create
    if name == "register_task":  # imported late, because models need no tasks
        from glocal.tasks import register_task

        return register_task
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
