"""Using a trained model."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from glocal.deploy.reparameterize import fuse

__all__ = ["fuse"]


def __getattr__(name: str):
    # Late, as `glocal predict --help` reads this package's options without torch.
    if name == "fuse":
        from glocal.deploy.reparameterize import fuse

        return fuse
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
