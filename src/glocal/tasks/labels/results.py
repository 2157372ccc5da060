"""From a model's probabilities to the most probable classes."""

from collections.abc import Sequence

from torch import Tensor

from glocal.tasks.labels.prediction import Prediction
from glocal.tasks.loading import check_finite


def predictions(probabilities: Tensor, class_names: Sequence[str], top_k: int) -> list[Prediction]:
    """The most probable classes of each image: probabilities (B, classes). RuntimeError for NaN and infinity."""
    values, indices = check_finite(probabilities).cpu().topk(min(top_k, len(class_names)))
    return [
        Prediction(labels=[class_names[index] for index in of_image], probabilities=row)
        for of_image, row in zip(indices.tolist(), values.tolist(), strict=True)
    ]
