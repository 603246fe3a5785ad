"""Necks: exact forms against literal ones at even and odd sizes, and the ablation necks."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torchvision.ops import FeaturePyramidNetwork
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool

from canet.config import CANetConfig
from canet.pyramid import NECKS, LaplacianFPN, build_neck, upsampled_conv
from tests.canet.reference import literal, randomise

NANO = CANetConfig.preset("pytorch", scale="nano")


def _features(config: CANetConfig, height: int, width: int) -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return {
        f"c{i + 2}": torch.randn(2, c, -(-height // 2**i), -(-width // 2**i), dtype=torch.float64)
        for i, c in enumerate(config.stage_channels)
    }


@pytest.mark.parametrize("height", [1, 2, 5, 6])
@pytest.mark.parametrize("width", [1, 3, 4, 9])
@pytest.mark.parametrize("bias", [True, False])
def test_upsampled_conv(height: int, width: int, bias: bool) -> None:
    torch.manual_seed(0)
    conv = nn.Conv2d(3, 5, 3, padding=1, bias=bias).double()
    for odd_rows, odd_columns in [(0, 0), (0, 1), (1, 0), (1, 1)]:
        x = torch.randn(2, 3, height, width, dtype=torch.float64, requires_grad=True)
        size = torch.Size([2 * height - odd_rows, 2 * width - odd_columns])
        expected = conv(F.interpolate(x, size=size, mode="nearest"))
        found = upsampled_conv(conv, x, size)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-13)
        weight = torch.randn_like(expected)
        wanted = [x, *conv.parameters()]
        for a, b in zip(
            torch.autograd.grad((found * weight).sum(), wanted),
            torch.autograd.grad((expected * weight).sum(), wanted),
            strict=True,
        ):
            torch.testing.assert_close(a, b, rtol=0, atol=1e-11)


def test_upsampled_conv_at_another_ratio() -> None:
    conv = nn.Conv2d(3, 5, 3, padding=1).double()
    x = torch.randn(1, 3, 4, 4, dtype=torch.float64)
    expected = conv(F.interpolate(x, size=(12, 7), mode="nearest"))
    torch.testing.assert_close(upsampled_conv(conv, x, torch.Size([12, 7])), expected)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"gate_bias": True, "mutual_attention": True},
        {"gates": False},
        {"difference": False},
        {"learned_mixing": False},
        {"gates": False, "difference": False, "learned_mixing": False},
    ],
)
@pytest.mark.parametrize("size", [(16, 24), (19, 13)])
def test_laplacian_pyramid_is_the_literal_one(changes: dict, size: tuple) -> None:
    config = replace(NANO, **changes)
    neck = randomise(build_neck(config).double())
    if not config.difference:
        neck.get_buffer("fusion.0.beta")
        for fusion in neck.fusion:
            fusion.beta.zero_()
    features = _features(config, *size)
    found, expected = neck(features), literal(neck)(features)
    assert list(found) == ["p2", "p3", "p4", "p5", "p6"]
    for name in found:
        torch.testing.assert_close(found[name], expected[name], rtol=0, atol=1e-11)


def test_without_gates_the_coarser_map_cancels_at_the_start() -> None:
    neck = build_neck(replace(NANO, gates=False)).double()
    features = _features(NANO, 16, 16)
    before = neck(features)["p2"]
    features["c5"] = features["c5"] + 1
    torch.testing.assert_close(neck(features)["p2"], before)


def test_plain_fpn_is_torchvisions() -> None:
    torch.manual_seed(0)
    neck = build_neck(NANO.plain()).double()
    theirs = FeaturePyramidNetwork(list(NANO.stage_channels), 64, LastLevelMaxPool()).double()
    for i in range(4):
        theirs.inner_blocks[i][0].load_state_dict(neck.lateral[i].state_dict())
        theirs.layer_blocks[i][0].load_state_dict(neck.output[i].state_dict())
    features = _features(NANO, 19, 16)
    for a, b in zip(neck(features).values(), theirs(features).values(), strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("name", NECKS)
@pytest.mark.parametrize("size", [(16, 16), (13, 22)])
def test_every_neck_has_the_levels_of_an_fpn(name: str, size: tuple) -> None:
    config = replace(NANO, neck=name)
    levels = build_neck(config).double()(_features(config, *size))
    shapes = [tuple(x.shape[1:]) for x in levels.values()]
    assert shapes == [(64, -(-size[0] // 2**i), -(-size[1] // 2**i)) for i in range(5)]


def test_balanced_pyramid_averages_all_levels() -> None:
    config = replace(NANO, neck="bfp")
    neck = build_neck(config).double()
    levels = neck(_features(config, 16, 16))
    nn.init.zeros_(neck.lateral[3].weight)
    changed = neck(_features(config, 16, 16))
    assert not torch.allclose(levels["p2"], changed["p2"])
    # The last layer of its refinement starts at zero: what is added is the average itself.
    for parameter in (neck.query.weight, neck.value.weight):
        parameter.data.normal_()
    torch.testing.assert_close(neck(_features(config, 16, 16))["p2"], changed["p2"])


def test_capacity_control_has_the_fusions_convolutions_and_no_more() -> None:
    def count(module: nn.Module) -> int:
        return sum(p.numel() for p in module.parameters())

    laplacian = build_neck(NANO)
    assert isinstance(laplacian, LaplacianFPN)
    gates = 3 * (4 * 64 * 64 + 2)
    assert count(build_neck(replace(NANO, neck="fpn_convs"))) == count(laplacian) - gates
