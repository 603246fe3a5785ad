"""Anchors in few digits, rates by part, scales of RoIAlign, blocks that weights freeze: equal terms for every model."""

from __future__ import annotations

import pytest
import torch

from benchmarks.cells import Recipe
from benchmarks.errors import RequestError
from benchmarks.models import build_model
from benchmarks.train import parameter_groups
from canet.config import CANetConfig
from canet.deploy import deploy
from canet.detector import CANet
from canet.efficientnet import weights_file


def test_anchors_are_the_same_under_autocast_and_after_it() -> None:
    config = CANetConfig.preset("mmdet", scale="nano").from_scratch()  # anchors that are no whole numbers
    model = CANet(config, num_classes=2, image_size=320).eval()
    seen = []
    for part in (model, deployed := deploy(model, "bfloat16")):
        part.rpn.anchor_generator.register_forward_hook(lambda _, given, got: seen.append(got[0]))
    image = [torch.rand(3, 320, 320)]
    with torch.no_grad():
        model(image)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            model(image)
        model(image)
        deployed(image)
    assert all(torch.equal(anchors, seen[0]) for anchors in seen[1:])


@pytest.mark.parametrize("name", ["retinanet", "fcos"])
def test_dense_anchors_under_autocast(name: str) -> None:
    torch.manual_seed(0)
    model = build_model(name, num_classes=2, image_size=320, scale="nano").eval()
    image = [torch.rand(3, 320, 320)]
    with torch.no_grad():
        exact = model.network(model.preprocess(image))["anchors"][0]
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert torch.equal(model.network(model.preprocess(image))["anchors"][0], exact)


def test_default_boxes_under_autocast() -> None:
    model = build_model("ssdlite", num_classes=2, image_size=320, scale="mobilenet_v3_large").eval()
    image = [torch.rand(3, 320, 320)]
    with torch.no_grad():
        exact = model.network(model.preprocess(image))["anchors"][0]
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert torch.equal(model.network(model.preprocess(image))["anchors"][0], exact)


def test_a_thin_image_first_changes_nothing_for_the_next() -> None:
    torch.manual_seed(0)
    model = build_model("fasterrcnn_mobilenet", num_classes=2, image_size=320, scale="mobilenet_v3_large").eval()
    with torch.no_grad():
        model([torch.rand(3, 20, 320)])
    assert model.roi_heads.box_roi_pool.scales == [1 / 32, 1 / 32]


def test_roi_scales_are_those_that_torchvision_infers() -> None:
    model = build_model("fasterrcnn_fpn", num_classes=2, image_size=64, scale="r50").eval()
    pool = model.roi_heads.box_roi_pool
    told, mapper = pool.scales, vars(pool.map_levels)
    pool.scales = pool.map_levels = None
    with torch.no_grad():
        model([torch.rand(3, 64, 64)])
    assert (pool.scales, vars(pool.map_levels)) == (told, mapper)


@pytest.mark.parametrize("name", ["retinanet", "fcos"])
def test_a_pyramid_learns_at_the_full_rate(name: str) -> None:
    model = build_model(name, num_classes=2, image_size=64, scale="nano")
    recipe = Recipe(epochs=1, batch_size=1, optimizer="adamw", lr=1.0, schedule="constant", backbone_lr_factor=0.1)
    rate = {id(p): g["lr"] for g in parameter_groups(model, recipe) for p in g["params"]}
    of = {n: rate[id(p)] for n, p in model.named_parameters()}
    assert {r for n, r in of.items() if n.startswith("backbone.body.")} == {0.1}
    assert {r for n, r in of.items() if not n.startswith("backbone.body.")} == {1.0}


def test_blocks_that_would_never_learn_are_refused() -> None:
    try:
        weights_file()
    except RuntimeError as error:
        pytest.skip(str(error))
    with pytest.raises(RequestError, match="stage 1, which pretrained weights freeze"):
        build_model("canet", num_classes=2, image_size=64, scale="lite0", weights="imagenet", variant="all_stages")
    model = build_model("canet", num_classes=2, image_size=64, scale="lite0", variant="all_stages")
    assert model.backbone.layer1[0].sae.gamma.requires_grad
