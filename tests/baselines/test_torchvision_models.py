"""torchvision's detectors under our contract: their own numbers at r50, CANet's parts at nano."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torchvision.models.detection import FasterRCNN, RetinaNet, fasterrcnn_resnet50_fpn, retinanet_resnet50_fpn

from baselines.torchvision_models import build_fasterrcnn_fpn, build_retinanet
from canet.config import CANetConfig
from canet.detector import build_canet

BUILDERS = {"fasterrcnn": build_fasterrcnn_fpn, "retinanet": build_retinanet}


def _targets() -> list[dict[str, Tensor]]:
    boxes = torch.tensor([[4.0, 6.0, 30.0, 40.0], [20.0, 22.0, 60.0, 50.0]])
    empty = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)}
    return [{"boxes": boxes, "labels": torch.tensor([1, 3])}, empty]


def _shipped(name: str) -> FasterRCNN | RetinaNet:
    """torchvision's model from its own builder, with our thresholds and a size that needs no resizing."""
    torch.manual_seed(0)
    build = {"fasterrcnn": fasterrcnn_resnet50_fpn, "retinanet": retinanet_resnet50_fpn}[name]
    thresholds = {"fasterrcnn": ("box_score_thresh", "box_detections_per_img")}
    score, count = thresholds.get(name, ("score_thresh", "detections_per_img"))
    sizes = {"min_size": 64, "max_size": 64, score: 0.001, count: 100}
    model = build(weights=None, weights_backbone=None, num_classes=4, **sizes)
    # Their tiny start gives nearly equal scores, whose order is rounding.
    head = model.rpn.head if name == "fasterrcnn" else model.head
    for key, weight in head.named_parameters():
        if key.endswith("weight"):
            scale = 1e-3 if weight.shape[0] < 256 else (2 / weight[0].numel()) ** 0.5
            nn.init.normal_(weight, std=scale)
    return model


@pytest.mark.parametrize("name", BUILDERS)
def test_r50_is_the_shipped_model(name: str) -> None:
    theirs = _shipped(name)
    ours = BUILDERS[name](num_classes=3, image_size=64, scale="r50")
    if name == "fasterrcnn":
        names = {"backbone.body.": "backbone.", "backbone.fpn.": "neck."}
        state = {}
        for key, value in theirs.state_dict().items():
            for prefix, replacement in names.items():
                key = replacement + key.removeprefix(prefix) if key.startswith(prefix) else key
            state[key] = value
        ours.load_state_dict(state)
    else:
        ours.load_state_dict(theirs.state_dict())
    images = [torch.rand(3, 64, 64), torch.rand(3, 64, 48)]
    torch.manual_seed(3)
    found = ours.train()(images, _targets())
    torch.manual_seed(3)
    expected = theirs.train()(images, _targets())
    # torchvision draws a random size from the one it has: its sampling of anchors starts elsewhere.
    if name == "retinanet":
        torch.testing.assert_close(found, expected)
    assert set(found) == set(expected)
    with torch.no_grad():
        if name == "retinanet":  # label 0 does not exist under the contract: torchvision's must not find it either
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


@pytest.mark.parametrize("name", BUILDERS)
def test_nano_trains_everything_from_scratch(name: str) -> None:
    torch.manual_seed(0)
    model = BUILDERS[name](num_classes=3, image_size=64, scale="nano").train()
    assert model.provenance == {"weights": None, "frozen": [], "norm": "batch"}
    losses = model([torch.rand(3, 64, 64)] * 2, _targets())
    sum(losses.values()).backward()
    assert all(p.requires_grad and p.grad is not None for p in model.parameters())


@pytest.mark.parametrize("name", BUILDERS)
def test_weights_that_do_not_exist_are_refused(name: str) -> None:
    with pytest.raises(RuntimeError, match="nano"):
        BUILDERS[name](num_classes=3, image_size=64, scale="nano", weights="imagenet")
    with pytest.raises(ValueError, match="coco"):
        BUILDERS[name](num_classes=3, image_size=64, scale="r50", weights="coco")


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
