"""Every head on every family and on backbones of timm: outputs at odd sizes, training, files of a run, export.

The quick tests take narrow heads, or one head on one family; the slow ones take the heads as they are, on all.
"""

import pytest
import torch

import glocal
from glocal.data.batch import Batch
from glocal.data.masks import IGNORE
from glocal.data.samples import DataSource
from glocal.deploy.files import export
from glocal.models.dense import DenseModel, dense_backbone
from glocal.models.heads import HEADS
from glocal.models.heads.fcn import FCNHead
from glocal.models.heads.mask2former import Mask2FormerHead
from glocal.models.heads.semantic_fpn import SemanticFPN
from glocal.models.heads.upernet import UPerNetHead
from glocal.tasks import find_task
from glocal.tasks.checkpoint import CheckpointInfo, save_checkpoint
from glocal.tasks.loading import load_trained
from glocal.training.config import train_config

SEGMENTATION = find_task("segmentation")
FAMILIES = [name for name in glocal.model_names() if name.endswith("_pico")]
OUTSIDE = ["test_convnext", "test_mambaout"]  # the maps of the second are (B, H, W, C)
NAMES = ["wall", "sky", "tree", "road", "car"]
NARROW = {
    "semantic_fpn": lambda dims: (SemanticFPN(dims, len(NAMES), width=16, neck_width=16), None),
    "upernet": lambda dims: (UPerNetHead(dims, len(NAMES), width=16), FCNHead(dims, len(NAMES), width=16)),
    "mask2former": lambda dims: (
        Mask2FormerHead(dims, len(NAMES), dim=64, num_queries=9, num_heads=4, encoder_depth=1, decoder_depth=3),
        None,
    ),
}

pytestmark = pytest.mark.usefixtures("one_thread")


def narrow(head, backbone):
    torch.manual_seed(0)
    maps = dense_backbone(backbone)
    return DenseModel(maps, *NARROW[head](maps.feature_info.channels()))


def whole(head, backbone):
    torch.manual_seed(0)
    return SEGMENTATION.model(SEGMENTATION.backbone(backbone, NAMES), NAMES, head=head)


backbones = pytest.mark.parametrize("backbone", FAMILIES + OUTSIDE)
# A narrow head for each backbone in turn is quick.
builds = pytest.mark.parametrize(
    ("head", "backbone", "build", "size"),
    [
        pytest.param(
            *(head, backbone, build, size),
            id=f"{head}-{backbone}-{build.__name__}-{size}",
            marks=[] if size == (33, 50) and (number + turn) % len(HEADS) == 0 else pytest.mark.slow,
        )
        for number, head in enumerate(HEADS)
        for turn, backbone in enumerate(FAMILIES + OUTSIDE)
        for build, size in ((narrow, (33, 50)), (narrow, (65, 97)), (whole, (65, 97)))
    ],
)


def test_every_family_has_a_small_model():
    assert len(FAMILIES) == len(glocal.models.FAMILIES)


@builds
def test_an_image_gives_the_same_alone_and_in_a_batch(head, backbone, build, size):
    # Mask2Former's attention masks have bits, which single precision may flip.
    dtype = torch.float64 if head == "mask2former" else torch.float32
    model = build(head, backbone).to(dtype).eval()
    images = torch.randn(2, 3, *size, dtype=dtype)
    with torch.no_grad():
        outputs = model(images)
        alone = [model(image[None]) for image in images]
    tuples = [one if isinstance(one, tuple) else (one,) for one in (outputs, *alone)]
    for together, *single in zip(*tuples, strict=True):
        torch.testing.assert_close(together, torch.cat(single), rtol=1e-4, atol=1e-4 * float(together.std()))
    assert tuples[0][-1].shape[2:] == model.maps(images)[0].shape[2:]
    assert model.decode(outputs, size).shape == (2, len(NAMES), *size)


@builds
def test_a_step_of_training_has_finite_gradients(head, backbone, build, size):
    model = build(head, backbone).train()
    options = train_config(SEGMENTATION)(head=head)
    objective = SEGMENTATION.objective(options, DataSource("made", NAMES, {}), None)
    labels = torch.randint(len(NAMES), (2, *size))
    labels[:, :7] = IGNORE
    parts = objective(model, Batch(torch.randn(2, 3, *size), labels, [], []))
    assert all(part.isfinite() for part in parts.values())
    parts["loss"].backward()
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    assert not [name for name, gradient in gradients.items() if gradient is None or not gradient.isfinite().all()]
    assert sum(float(gradient.abs().sum()) for gradient in gradients.values()) > 0


def some(head_of):
    """(head, backbone): for each backbone the head that is quick; the others are slow."""
    return pytest.mark.parametrize(
        ("head", "backbone"),
        [
            pytest.param(head, backbone, marks=[] if head_of.get(backbone) == head else pytest.mark.slow)
            for backbone in FAMILIES + OUTSIDE
            for head in HEADS
        ],
    )


@some({"transnext_pico": "semantic_fpn", "van_pico": "upernet", "test_mambaout": "mask2former"})
def test_the_file_of_a_run_comes_back(head, backbone, tmp_path):
    model = whole(head, backbone).eval()
    preprocessing = {"input_size": [3, 64, 64], "mean": [0.5], "std": [0.5]}
    info = CheckpointInfo(
        backbone, NAMES, preprocessing, task="segmentation", task_args={"head": head, "colors": [[9, 8, 7]] * 5}
    )
    save_checkpoint(tmp_path / "model.safetensors", model.state_dict(), info)
    trained = load_trained(tmp_path)
    assert (trained.task, trained.class_names, trained.task_args) == (SEGMENTATION, NAMES, info.task_args)
    weights = trained.model.state_dict()
    assert weights.keys() == model.state_dict().keys()
    assert all(torch.equal(tensor, weights[name]) for name, tensor in model.state_dict().items())
    images = torch.randn(1, 3, 65, 97)
    with torch.no_grad():
        torch.testing.assert_close(trained.model(images), model(images), rtol=0, atol=0)


@pytest.mark.slow
@pytest.mark.parametrize("head", ["semantic_fpn", "upernet"])
@backbones
def test_export_at_odd_sizes(head, backbone, tmp_path):
    pytest.importorskip("onnxruntime")
    result = export(narrow(head, backbone), tmp_path / "model.onnx", input_size=(3, 65, 97))
    assert {shape[2:] for shape in result.compared} == {(65, 97), (65, 114)}
    assert result.difference < 1e-4
