"""The deployed form is the same function: every variant, odd sizes, batches, and the refusals."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from ablations.variants import VARIANTS, apply
from canet.config import ORIGINS, CANetConfig
from canet.deploy import DeployedPyramid, DeployedResNet, ShiftedConv, add_phases, deploy, tap_sums
from canet.detector import CANet
from canet.pyramid import phase_weights
from tests.canet.reference import literal, randomise

NANO = CANetConfig.preset("pytorch", scale="nano")


def _model(config: CANetConfig, dtype: torch.dtype = torch.float64) -> CANet:
    torch.manual_seed(0)
    model = CANet(config, num_classes=3, image_size=64)
    randomise(nn.ModuleList([model.backbone, model.neck]))
    return model.to(dtype).eval()


def _compare(found: dict, expected: dict, tolerance: float) -> None:
    assert list(found) == list(expected)
    for name in found:
        assert (found[name] - expected[name]).abs().max() <= tolerance * expected[name].abs().max(), name


CONFIGS = {f"{o}-{v}": apply(v, CANetConfig.preset(o, scale="nano")) for o in ORIGINS for v in ("default", "no_sae")}
CONFIGS |= {name: apply(name, NANO) for name in VARIANTS}
CONFIGS["mul"] = replace(NANO, cbd_fusion=("add", "mul"))
CONFIGS["mul_average_batch_eval"] = replace(NANO, cbd_fusion=("mul",), cbd_pooling="average", norm="batch_eval")
CONFIGS["live_norm"] = NANO.from_scratch()


@pytest.mark.parametrize("name", CONFIGS)
@torch.no_grad()
def test_backbone_and_neck_are_the_literal_ones(name: str) -> None:
    config = CONFIGS[name]
    model = _model(config)
    reference = literal(model)
    deployed = deploy(model)
    sizes = [(1, 64, 128), (2, 64, 128)] if config.sae_pixel_shuffle else [(2, 64, 96), (1, 75, 49), (1, 33, 34)]
    for batch, height, width in sizes:
        x = torch.randn(batch, 3, height, width, dtype=torch.float64)
        features, expected = deployed.backbone(x), reference.backbone(x)
        _compare(features, expected, 1e-11)
        _compare(deployed.neck(features), reference.neck(expected), 1e-10)


@pytest.mark.parametrize("origin", ORIGINS)
@torch.no_grad()
def test_detections_are_the_same(origin: str) -> None:
    model = _model(CANetConfig.preset(origin, scale="nano"))
    deployed = deploy(model)
    images = [torch.rand(3, 64, 64).double(), torch.rand(3, 50, 41).double()]
    for batch in (images, images[:1]):
        for found, expected in zip(deployed(batch), model(batch), strict=True):
            torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-8)
            assert len(found["boxes"]) > 0


@torch.no_grad()
def test_float32_with_fused_convolutions() -> None:
    model = _model(NANO, torch.float32)
    x = torch.randn(1, 3, 96, 64)
    deployed = deploy(model)
    reference = literal(model).double()
    features, expected = deployed.backbone(x), reference.backbone(x.double())
    _compare(features, expected, 1e-5)
    _compare(deployed.neck(features), reference.neck(expected), 2e-5)


@torch.no_grad()
def test_bfloat16_is_close() -> None:
    model = _model(NANO, torch.float32)
    deployed = deploy(model, precision="bfloat16")
    x = torch.randn(1, 3, 96, 64)
    found = deployed.neck(deployed.backbone(x.bfloat16()))
    expected = model.neck(model.backbone(x))
    assert all(level.dtype == torch.bfloat16 for level in found.values())
    for name in found:
        error = (found[name].float() - expected[name]).norm() / expected[name].norm()
        assert error < 0.05, name
    assert len(deployed([torch.rand(3, 64, 64)])) == 1


def test_refusals() -> None:
    model = _model(NANO)
    deployed = deploy(model)
    assert not deployed.training
    for part in (deployed, deployed.backbone, deployed.neck):
        with pytest.raises(RuntimeError, match="inference"):
            part.train()
    with pytest.raises(ValueError, match="precision"):
        deploy(model, precision="int8")
    with pytest.raises(RuntimeError, match="evaluation mode"):
        deploy(model.train())


def test_the_original_is_left_alone() -> None:
    model = _model(NANO)
    before = {name: x.clone() for name, x in model.state_dict().items()}
    deployed = deploy(model)
    for x in deployed.buffers():
        x.zero_()
    assert all(torch.equal(before[name], x) for name, x in model.state_dict().items())


@torch.no_grad()
def test_blocks_that_do_nothing_are_left_out() -> None:
    """The stage that the mmdet variant freezes starts as, and stays, the identity."""
    model = _model(CANetConfig.preset("mmdet", scale="nano"))
    block = model.backbone.layer1[0]
    block.sae.gamma.zero_()
    block.cbd.add.last.weight.zero_()
    block.cbd.add.last.bias.zero_()
    deployed = deploy(model)
    assert deployed.backbone.layer1[0].sae is None
    assert deployed.backbone.layer1[0].cbd is None
    assert deployed.backbone.layer2[0].sae is not None
    x = torch.randn(1, 3, 64, 64, dtype=torch.float64)
    _compare(deployed.backbone(x), model.backbone(x), 1e-11)


@pytest.mark.parametrize("size", [(1, 1), (1, 4), (2, 2), (5, 3)])
def test_shifted_conv(size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    conv = nn.Conv2d(4, 6, 3, padding=1).double()
    for batch in (1, 3):
        x = torch.randn(batch, 4, *size, dtype=torch.float64)
        shift = torch.randn(batch, 4, dtype=torch.float64)
        found = ShiftedConv(conv.weight, conv.bias)(x, shift)
        torch.testing.assert_close(found, conv(x + shift[:, :, None, None]).detach())


@pytest.mark.parametrize("size", [(1, 1), (1, 4), (2, 3), (5, 6)])
def test_tap_sums_give_the_mean_of_a_convolution(size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    conv = nn.Conv2d(3, 4, 3, padding=1, bias=False).double()
    x = torch.randn(2, 3, *size, dtype=torch.float64)
    mean = torch.einsum("dcij,bcij->bd", conv.weight, tap_sums(x)) / (size[0] * size[1])
    torch.testing.assert_close(mean, conv(x).mean((2, 3)))
    for odd_rows in (0, 1):
        for odd_columns in (0, 1):
            target = (2 * size[0] - odd_rows, 2 * size[1] - odd_columns)
            up = conv(nn.functional.interpolate(x, size=target, mode="nearest"))
            mean = torch.einsum("dcij,bcij->bd", conv.weight, tap_sums(x, target)) / (target[0] * target[1])
            torch.testing.assert_close(mean, up.mean((2, 3)))
            out = torch.zeros_like(up)
            add_phases(out, x, phase_weights(conv.weight), conv.weight)
            torch.testing.assert_close(out, up)


def test_necks_without_an_inference_form_stay() -> None:
    assert not isinstance(deploy(_model(replace(NANO, neck="bfp"))).neck, DeployedPyramid)
    assert isinstance(deploy(_model(NANO.plain())).neck, DeployedPyramid)
    assert isinstance(deploy(_model(NANO.plain())).backbone, DeployedResNet)
