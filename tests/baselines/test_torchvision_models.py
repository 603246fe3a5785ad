"""torchvision's detectors under our contract: their own numbers where they ship, CANet's parts at nano."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchvision.models import MobileNet_V3_Large_Weights, ResNet50_Weights, VGG16_Weights
from torchvision.models import detection as shipped_models
from torchvision.ops import box_iou

from baselines.torchvision_models import build_fasterrcnn_fpn, build_retinanet
from benchmarks.errors import RequestError
from benchmarks.models import MODELS, build_model
from canet.config import CANetConfig
from canet.detector import build_canet

# Our name -> torchvision's builder, and the size that needs no resizing in both.
SHIPPED = {
    "fasterrcnn_fpn": ("fasterrcnn_resnet50_fpn", 64),
    "fasterrcnn_fpn_v2": ("fasterrcnn_resnet50_fpn_v2", 64),
    "fasterrcnn_mobilenet": ("fasterrcnn_mobilenet_v3_large_fpn", 64),
    "retinanet": ("retinanet_resnet50_fpn", 64),
    "retinanet_v2": ("retinanet_resnet50_fpn_v2", 64),
    "fcos": ("fcos_resnet50_fpn", 64),
    "ssd300": ("ssd300_vgg16", 300),
    "ssdlite": ("ssdlite320_mobilenet_v3_large", 320),
}
PYRAMIDS = [
    name
    for name, spec in MODELS.items()
    if spec.builder.startswith("baselines.torch") and "nano" in spec.scales.values()
]

_BIG = ("ssd300", "fasterrcnn_fpn_v2", "retinanet_v2")


def _each(*names: str) -> pytest.MarkDecorator:
    params = [pytest.param(name, marks=[pytest.mark.slow] if name in _BIG else []) for name in names]
    return pytest.mark.parametrize("name", params)


def _targets() -> list[dict[str, Tensor]]:
    boxes = torch.tensor([[4.0, 6.0, 30.0, 40.0], [20.0, 22.0, 60.0, 50.0]])
    empty = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)}
    return [{"boxes": boxes, "labels": torch.tensor([1, 3])}, empty]


def _shipped(name: str) -> Any:
    """torchvision's model from its own builder, with our thresholds and a size that needs no resizing."""
    torch.manual_seed(0)
    builder, size = SHIPPED[name]
    two_stage = name.startswith("faster")
    score, count = (
        ("box_score_thresh", "box_detections_per_img") if two_stage else ("score_thresh", "detections_per_img")
    )
    sizes: dict[str, Any] = {score: 0.001, count: 100}
    if not name.startswith("ssd"):
        sizes |= {"min_size": size, "max_size": size}
    model = getattr(shipped_models, builder)(weights=None, weights_backbone=None, num_classes=4, **sizes)
    # Their tiny start gives nearly equal scores, whose order is rounding.
    head = model.rpn.head if two_stage else model.head
    for key, weight in head.named_parameters():
        if key.endswith("weight") and weight.ndim == 4:
            scale = (
                1e-3
                if name.startswith(("faster", "retina")) and weight.shape[0] < 256
                else (2 / weight[0].numel()) ** 0.5
            )
            nn.init.normal_(weight, std=scale)
    return model


def _ours(name: str, **options: Any) -> nn.Module:
    spec, variant = MODELS[name], "default" if name == "fcos" else "library_anchors"
    return build_model(
        name, num_classes=3, image_size=SHIPPED[name][1], scale=spec.scales["r50"], variant=variant, **options
    )


@_each(*SHIPPED)
def test_with_its_own_anchors_it_is_the_shipped_model(name: str) -> None:
    theirs, ours = _shipped(name), _ours(name)
    names = {"backbone.body.": "backbone.", "backbone.fpn.": "neck."} if name.startswith("faster") else {}
    state = {}
    for key, value in theirs.state_dict().items():
        for prefix, replacement in names.items():
            key = replacement + key.removeprefix(prefix) if key.startswith(prefix) else key
        state[key] = value
    ours.load_state_dict(state)
    size = SHIPPED[name][1]
    square = size if name.startswith("ssd") else 48  # SSD is given a square: torchvision stretches, ours pads
    images = [torch.rand(3, size, size), torch.rand(3, size, square)]
    torch.manual_seed(3)
    found = ours.train()(images, _targets())
    torch.manual_seed(3)
    expected = theirs.train()(images, _targets())
    # torchvision draws a random size from the one it has: its sampling of anchors and its dropout start elsewhere.
    if not name.startswith("faster"):
        torch.testing.assert_close(found, expected)
    assert set(found) == set(expected)
    with torch.no_grad():
        if name.startswith(("retinanet", "fcos")):  # label 0 does not exist under the contract: theirs must not find it
            theirs.head.classification_head.cls_logits.bias.view(-1, 4)[:, 0] = -1e4
        for a, b in zip(ours.eval()(images), theirs.eval()(images), strict=True):
            solid = (b["boxes"][:, 2:] > b["boxes"][:, :2]).all(1)  # ours drop boxes without area
            assert len(a["boxes"]) > 10
            torch.testing.assert_close(a, {k: b[k][solid] for k in a})


def test_nano_faster_rcnn_is_canet_without_its_ideas() -> None:
    """Same function as CANet's own plain form: what differs from CANet is SAE, CBD and the neck."""
    config = CANetConfig.preset("pytorch", scale="nano").plain()
    plain = build_canet(num_classes=3, image_size=64, scale="nano", config=config).eval()
    theirs = build_fasterrcnn_fpn(num_classes=3, image_size=64, scale="nano").eval()
    state = plain.state_dict()
    for i in range(4):
        for kind, official in (("lateral", "inner_blocks"), ("output", "layer_blocks")):
            for part in ("weight", "bias"):
                state[f"neck.{official}.{i}.0.{part}"] = state.pop(f"neck.{kind}.{i}.{part}")
    theirs.load_state_dict(state)
    image = [torch.rand(3, 64, 64)]
    with torch.no_grad():
        torch.testing.assert_close(theirs(image)[0], plain(image)[0])


@pytest.mark.parametrize("name", PYRAMIDS)
@pytest.mark.parametrize("scale", ["nano", "small"])
def test_nano_and_small_stand_on_the_plain_backbone(name: str, scale: str) -> None:
    plain = CANetConfig.preset("pytorch", scale=scale).plain()
    canet = build_canet(num_classes=3, image_size=64, scale=scale, config=plain)
    model = build_model(name, num_classes=3, image_size=64, scale=scale)
    body = model.backbone if name.startswith("faster") else model.backbone.body
    shapes = {k: v.shape for k, v in canet.backbone.state_dict().items()}
    assert {k: v.shape for k, v in body.state_dict().items()} == shapes
    assert model.provenance == {"weights": None, "frozen": [], "norm": "batch"}


def small_boxes(side: int) -> Tensor:
    """1,000 boxes of 9 to 15 px, up to twice as long as wide, anywhere in an image of `side` px."""
    rng = torch.Generator().manual_seed(0)
    root = 9 + 6 * torch.rand(1000, generator=rng)
    stretch = 2 ** (torch.rand(1000, generator=rng) - 0.5)
    size = torch.stack([root * stretch, root / stretch], dim=1)
    corner = torch.rand(1000, 2, generator=rng) * (side - size)
    return torch.cat([corner, corner + size], dim=1)


@pytest.mark.parametrize(
    ("name", "scale"),
    [
        pytest.param(name, scale, marks=[pytest.mark.slow] if name in _BIG else [])
        for name in SHIPPED
        if name != "fcos"
        for scale in dict.fromkeys(MODELS[name].scales[asked] for asked in ("nano", "r50"))
    ],
)
def test_small_anchors_fit_small_defects_better_than_the_librarys(name: str, scale: str) -> None:
    """Of boxes of 9 to 15 px in an image of 128 px, those with an anchor of IoU 0.5; at r50 it is enlarged to 600 px.

    A first anchor that is only smaller may lie between the cells of its map, and fit less.
    """
    shares = {}
    for variant in ("default", "library_anchors"):
        model = build_model(
            name, num_classes=3, image_size=600 if scale == "r50" else 128, scale=scale, variant=variant
        )
        generator = model.rpn.anchor_generator if name.startswith("faster") else model.anchor_generator
        seen: list[Tensor] = []
        generator.register_forward_hook(lambda _, given, got, seen=seen: seen.append(got[0]))
        with torch.no_grad():
            model.eval()([torch.rand(3, 128, 128)])
        boxes = small_boxes(128) * (model.transform.max_size / 128)
        shares[variant] = float((box_iou(boxes, seen[0]).amax(dim=1) >= 0.5).float().mean())
    assert shares["default"] > shares["library_anchors"] or shares["default"] > 0.9
    if scale == "nano":
        assert shares["default"] > 0.55


def test_boxes_that_no_location_of_fcos_is_for_are_counted() -> None:
    """Two at one centre: the smaller takes it all; and one that lies between the centres, 8 px apart."""
    model = build_model("fcos", num_classes=3, image_size=64, scale="nano").train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    boxes = torch.tensor([[8.0, 8, 40, 40], [18, 18, 30, 30], [45, 45, 46, 46]])
    target = {"boxes": boxes, "labels": torch.tensor([1, 2, 3])}
    nothing = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)}
    images = [torch.rand(3, 64, 64)] * 2
    assert model.boxes_without_target(images, [target, nothing]) == (1, 3)
    assert model.training
    for name, value in model.state_dict().items():
        torch.testing.assert_close(value, before[name])


@pytest.mark.parametrize("name", ["fasterrcnn_fpn", "retinanet"])
def test_weights_that_do_not_exist_are_refused(name: str) -> None:
    build = {"fasterrcnn_fpn": build_fasterrcnn_fpn, "retinanet": build_retinanet}[name]
    with pytest.raises(RuntimeError, match="nano"):
        build(num_classes=3, image_size=64, scale="nano", weights="imagenet")
    with pytest.raises(ValueError, match="coco"):
        build(num_classes=3, image_size=64, scale="r50", weights="coco")
    with pytest.raises(ValueError, match="'small' or 'library'"):
        build(num_classes=3, image_size=64, scale="nano", anchors="big")


ENTRIES = {
    "fasterrcnn_fpn": ResNet50_Weights.IMAGENET1K_V2,
    "fasterrcnn_fpn_v2": ResNet50_Weights.IMAGENET1K_V2,
    "fasterrcnn_mobilenet": MobileNet_V3_Large_Weights.IMAGENET1K_V1,
    "retinanet": ResNet50_Weights.IMAGENET1K_V2,
    "retinanet_v2": ResNet50_Weights.IMAGENET1K_V2,
    "fcos": ResNet50_Weights.IMAGENET1K_V2,
    "ssd300": VGG16_Weights.IMAGENET1K_FEATURES,
    "ssdlite": MobileNet_V3_Large_Weights.IMAGENET1K_V1,
}


@pytest.mark.parametrize("name", ENTRIES)
def test_without_the_file_one_line_says_what_to_place_where(name: str, monkeypatch, tmp_path: Path) -> None:
    def refuse(*args: Any, **kwargs: Any) -> None:
        raise OSError("no network")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr("torch.hub.download_url_to_file", refuse)
    with pytest.raises(RuntimeError, match="no network") as raised:
        _ours(name, weights="imagenet")
    text = str(raised.value)
    assert ENTRIES[name].url in text
    assert str(tmp_path / "hub" / "checkpoints") in text
    assert "\n" not in text


@_each(*ENTRIES)
def test_imagenet_weights_are_loaded_and_frozen_as_said(name: str, monkeypatch, tmp_path: Path) -> None:
    """From a file of the right name and shapes in torch's own folder, as a user places it."""
    import torchvision.models as classifiers

    entry = ENTRIES[name]
    torch.manual_seed(7)
    kind = {"ResNet50": "resnet50", "MobileNet": "mobilenet_v3_large", "VGG16": "vgg16"}
    network = getattr(classifiers, next(v for k, v in kind.items() if str(entry).startswith(k)))(weights=None)
    state = network.state_dict()
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    torch.save(state, folder / entry.url.rsplit("/", 1)[1])
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    model = _ours(name, weights="imagenet")
    assert model.provenance["weights"] == str(entry)
    assert model.provenance["norm"] == {
        "fasterrcnn_fpn_v2": "batch",
        "retinanet_v2": "batch",
        "ssd300": "none",
        "ssdlite": "batch",
    }.get(name, "frozen_batch")
    frozen = model.provenance["frozen"]
    assert bool(frozen) == (name != "ssdlite")
    for key, parameter in model.named_parameters():
        assert parameter.requires_grad != any(key.startswith(f"{f}.") for f in frozen), key
    first = next(iter(state.values()))  # the first convolution
    mine = next(p for p in model.parameters() if p.shape == first.shape)
    assert torch.equal(mine, first)
    assert math.isfinite(float(mine.detach().sum()))
    if "live_backbone" in MODELS[name].variants:
        live = build_model(name, num_classes=3, image_size=64, scale="r50", weights="imagenet", variant="live_backbone")
        assert live.provenance == {**model.provenance, "frozen": []}
        assert all(p.requires_grad for p in live.parameters())


@pytest.mark.parametrize("name", [name for name, spec in MODELS.items() if "live_backbone" in spec.variants])
def test_a_live_backbone_is_trained_from_its_stem_on(name: str) -> None:
    options: dict[str, Any] = {"num_classes": 3, "image_size": 64, "scale": "lite0"}
    image = torch.rand(3, 64, 64, generator=torch.Generator().manual_seed(0))
    first = {}
    for variant in ("default", "live_backbone"):
        model = build_model(name, weights="imagenet", variant=variant, **options)
        model.train()
        sum(model([image, image], _targets()).values()).backward()
        first[variant] = next(p for key, p in model.named_parameters() if key.startswith("backbone."))
        assert model.provenance["norm"] == "batch_eval"
        assert bool(model.provenance["frozen"]) == (variant == "default")
    assert torch.equal(first["default"], first["live_backbone"]), "both begin with the same weights"
    assert first["default"].grad is None
    assert first["live_backbone"].grad.abs().sum() > 0
    with pytest.raises(RequestError, match="changes nothing without pretrained weights"):
        build_model(name, variant="live_backbone", **options)


def test_settings_are_canets() -> None:
    config = CANetConfig.preset("pytorch", scale="nano")
    canet = build_canet(num_classes=3, image_size=64, scale="nano", config=config)
    theirs = build_fasterrcnn_fpn(num_classes=3, image_size=64, scale="nano")
    assert theirs.rpn.anchor_generator.sizes == canet.rpn.anchor_generator.sizes
    for part in ("rpn", "roi_heads"):
        ours, other = getattr(canet, part), getattr(theirs, part)
        assert ours.fg_bg_sampler.__dict__ == other.fg_bg_sampler.__dict__
        assert ours.proposal_matcher.__dict__ == other.proposal_matcher.__dict__
        assert ours.nms_thresh == other.nms_thresh
