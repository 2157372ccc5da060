"""Knowledge distillation: the outputs of a trained classifier are a part of another classifier's loss."""

import torch
from timm.task import DistillationTeacher
from torch import Tensor
from torch.nn import functional as F

from glocal.tasks.task import Trained


class Teacher:
    """A classifier in eval mode that is not trained (Hinton et al. 2015; hard labels: Touvron et al. 2021, DeiT).

    mean, std: of the student's preprocessing, (3,) each; the images are normalised again for the teacher.
    kind: "soft" (Kullback-Leibler divergence between the probabilities at `temperature`, times its square) or "hard"
    (cross-entropy with the teacher's decision). weight: its part of the loss.
    """

    def __init__(
        self,
        trained: Trained,
        mean: tuple[float, ...],
        std: tuple[float, ...],
        kind: str = "soft",
        weight: float = 0.5,
        temperature: float = 1.0,
    ):
        self.model = DistillationTeacher(trained.model.requires_grad_(False))
        preprocessing = trained.preprocessing
        self.model.mean_kd = torch.tensor(preprocessing["mean"]).view(1, -1, 1, 1)
        self.model.std_kd = torch.tensor(preprocessing["std"]).view(1, -1, 1, 1)
        self.mean = torch.tensor(mean).view(1, -1, 1, 1)
        self.std = torch.tensor(std).view(1, -1, 1, 1)
        self.kind = kind
        self.weight = weight
        self.temperature = temperature

    def to(self, device: torch.device) -> "Teacher":
        self.model.to(device, memory_format=torch.channels_last)
        self.mean, self.std = self.mean.to(device), self.std.to(device)
        return self

    def teach(self, loss: Tensor, logits: Tensor, images: Tensor) -> Tensor:
        """The loss with the teacher's part in it. logits: (B, classes) of the student; images: (B, C, H, W)."""
        with torch.no_grad():
            teacher_logits = self.model(self.model.normalize_input(images, self.mean, self.std))
        if self.kind == "hard":
            other = F.cross_entropy(logits, teacher_logits.argmax(-1))
        else:
            t = self.temperature
            other = (
                t
                * t
                * F.kl_div(
                    (logits / t).log_softmax(-1),
                    (teacher_logits / t).log_softmax(-1),
                    reduction="batchmean",
                    log_target=True,
                )
            )
        return (1 - self.weight) * loss + self.weight * other
