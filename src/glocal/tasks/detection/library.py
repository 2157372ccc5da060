"""The library that computes COCO's measures; it is imported here alone (docs/decisions/detection-metrics.md)."""

from types import ModuleType

from glocal.errors import MissingExtraError


def coco() -> ModuleType:
    """The module with `COCO` and `COCOeval`; ImportError, which names the extra, if it is not installed."""
    try:
        import hotcoco
    except ImportError:
        raise MissingExtraError("measuring detection needs hotcoco: pip install 'glocal[train]'") from None
    return hotcoco


def coco_masks() -> ModuleType:
    """The module of run lengths; errors as of `coco`."""
    return coco().mask
