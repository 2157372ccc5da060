"""Print the table of docs/segmentation.md: parameters and multiply–accumulates of every published head and backbone.

One image, 150 classes, 512×512 and 512×2048 pixels, counted on the meta device by `glocal.bench.cost`. Takes minutes.
"""

import torch

import glocal
from glocal.bench.cost import count
from glocal.models.heads.published import PUBLISHED

SIZES = ((512, 512), (512, 2048))
# As their authors and readers published them: millions; 10⁹ for 512×512; 10⁹ for 512×2048. For sources see the page.
FIGURES = {
    ("upernet", "transnext_tiny"): ("59", "245", ""),
    ("upernet", "transnext_small"): ("80", "273", "1089"),
    ("upernet", "transnext_base"): ("121", "319", "1268"),
    ("upernet", "van_b0"): ("32", "", ""),
    ("upernet", "van_b1"): ("44", "", ""),
    ("upernet", "van_b2"): ("57", "", "948"),
    ("upernet", "van_b3"): ("75", "", "1030"),
    ("upernet", "van_b4"): ("90", "", "1098"),
    ("upernet", "van_b5"): ("117", "", "1208"),
    ("upernet", "van_b6"): ("231", "", "1658"),
    ("semantic_fpn", "van_b0"): ("8", "26", ""),
    ("semantic_fpn", "van_b1"): ("18", "35", ""),
    ("semantic_fpn", "van_b2"): ("30", "48", ""),
    ("semantic_fpn", "van_b3"): ("49", "68", ""),
    ("mask2former", "transnext_tiny"): ("47.5", "", ""),
    ("mask2former", "transnext_small"): ("69.0", "", ""),
    ("mask2former", "transnext_base"): ("109", "", ""),
}


def costs(head: str, backbone: str) -> tuple[int, list[int]]:
    """Parameters, and the multiply–accumulates for each of SIZES."""
    with torch.device("meta"):
        found = [count(glocal.create(head, backbone), backbone, size) for size in SIZES]
    return found[0].params, [one.macs for one in found]


def row(head: str, backbone: str) -> str:
    """The row of the table."""
    params, macs = costs(head, backbone)
    ours = [f"{params / 1e6:.1f}", *(f"{one / 1e9:.1f}" for one in macs)]
    published = [figure or "–" for figure in FIGURES.get((head, backbone), ("", "", ""))]
    pairs = [cell for pair in zip(ours, published, strict=True) for cell in pair]
    return f"| `{head}` + `{backbone}` | {' | '.join(pairs)} |"


if __name__ == "__main__":
    for head, backbone in dict.fromkeys((one.head, one.backbone) for one in PUBLISHED):
        print(row(head, backbone), flush=True)
