"""Results as objects of other libraries."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from glocal.errors import MissingExtraError

if TYPE_CHECKING:
    import supervision


def as_supervision(
    boxes: Sequence[Sequence[float]],
    scores: Sequence[float],
    numbers: Sequence[int],
    classes: Sequence[str],
    masks: np.ndarray | None = None,
) -> "supervision.Detections":
    """supervision's `Detections` of N objects. boxes: x1, y1, x2, y2. numbers: of the classes. masks: (N, H, W) bool.

    Raises ImportError without the extra supervision.
    """
    try:
        import supervision
    except ImportError:
        raise MissingExtraError("to_supervision needs supervision: pip install 'glocal[supervision]'") from None

    return supervision.Detections(
        xyxy=np.array(boxes, np.float64).reshape(-1, 4),
        mask=masks,
        confidence=np.array(scores, np.float64),
        class_id=np.array(numbers, np.int64),
        data={"class_name": np.array(classes, dtype=str)},
    )
