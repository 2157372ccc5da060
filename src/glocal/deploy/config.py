"""What a prediction can be told. Kept free of torch, so that `glocal predict --help` answers at once."""

from dataclasses import dataclass


@dataclass(frozen=True)
class PredictConfig:
    """A prediction.

    Args:
        images: image files, folders of them, or glob patterns
        checkpoint: a run folder or a .safetensors file of a run; with --model also a file of the authors' weights
        model: name of the model, where the checkpoint does not know it; without --checkpoint, its published weights
        top_k: classes to show per image
        batch_size: images per step
        device: auto, cpu, cuda, cuda:1, mps, …
    """

    images: list[str]
    checkpoint: str | None = None
    model: str | None = None
    top_k: int = 3
    batch_size: int = 32
    device: str = "auto"

    def __post_init__(self):
        for name in ("top_k", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"--{name.replace('_', '-')} must be at least 1, got {getattr(self, name)}")
        if self.checkpoint is None and self.model is None:
            raise ValueError("give --checkpoint, or --model for a model's published weights")
