"""What is said of every published head on a backbone: where its file and its figures are."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

TRANSNEXT = "https://huggingface.co/DaiShiResearch"
TRANSNEXT_FIGURES = "https://github.com/DaiShiResearch/TransNeXt"
TRANSXNET = "https://github.com/LMMMEng/TransXNet"


@dataclass(frozen=True, kw_only=True)
class PublishedHead:
    """A head on a backbone.

    head, backbone: names for `glocal.create`. pretraining: of the backbone, "in1k" or "in22k". url: of the file, for a
    program; page: where a person gets it, "" if nobody can. source: address of the figures. backbone_args, head_args:
    of the model that the figures are of.
    """

    head: str
    backbone: str
    pretraining: str = "in1k"
    url: str = ""
    page: str = ""
    source: str
    backbone_args: Mapping[str, Any] = field(default_factory=dict)
    head_args: Mapping[str, Any] = field(default_factory=dict)

    @property
    def weights(self) -> str:
        """download, "by hand" (the file is behind a web page) or none."""
        return "download" if self.url else "by hand" if self.page else "none"
