"""The O(HW) forms against literal references: values, gradients, gradcheck, and what a step keeps in memory."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from canet.attention import SpatialAttentionEncoder
from canet.backbone import ResNet
from canet.config import ORIGINS, CANetConfig
from canet.context import ContextBlockDecoder
from canet.pyramid import LaplacianFusion, MutualAttention, build_neck
from tests.canet.reference import literal, randomise

SAE = [
    {"channels": 16},
    {"channels": 32, "heads": 9},
    {"channels": 16, "heads": 1},
    {"channels": 32, "heads": 16},
    {"channels": 16, "reduction": 2},
    {"channels": 16, "kv_stride": 1},
    {"channels": 16, "kv_stride": 4},
    {"channels": 16, "query": "mean"},
    {"channels": 16, "query": "input"},
    {"channels": 16, "query": "input", "kv_stride": 1},
    {"channels": 16, "pixel_shuffle": True},
    {"channels": 16, "pixel_shuffle": True, "heads": 3},
    {"channels": 16, "pixel_shuffle": True, "kv_stride": 4},
]
CBD = [
    {"channels": 32},
    {"channels": 32, "pooling": "average"},
    {"channels": 32, "fusion": ("mul",)},
    {"channels": 32, "fusion": ("add", "mul"), "pooling": "average"},
    {"channels": 20, "ratio": 1 / 8},
    {"channels": 16, "ratio": 1 / 16},
]
BLOCKS = [
    *[pytest.param(SpatialAttentionEncoder, kwargs, id=f"sae-{i}") for i, kwargs in enumerate(SAE)],
    *[pytest.param(ContextBlockDecoder, kwargs, id=f"cbd-{i}") for i, kwargs in enumerate(CBD)],
    pytest.param(MutualAttention, {"channels": 16}, id="mutual-attention"),
]


def _assert_same_gradients(ours: nn.Module, theirs: nn.Module, inputs: list[torch.Tensor]) -> None:
    """Values, input gradients and every parameter's gradient, in float64."""
    results = []
    for module in (ours, theirs):
        module.zero_grad()
        xs = [x.clone().requires_grad_() for x in inputs]
        out = module(*xs)
        outs = list(out.values()) if isinstance(out, dict) else [out]
        torch.manual_seed(3)
        sum((o * torch.randn(o.shape, dtype=o.dtype)).sum() for o in outs).backward()
        gradients = {name: p.grad for name, p in module.named_parameters()}
        results.append((outs, [x.grad for x in xs], gradients))
    (outs, grads, named), (expected_outs, expected_grads, expected_named) = results
    for a, b in zip([*outs, *grads], [*expected_outs, *expected_grads], strict=True):
        assert (a - b).abs().max() <= 1e-10 * b.abs().max()
    largest = max(g.abs().max() for g in expected_named.values())
    for name, gradient in expected_named.items():
        assert (named[name] - gradient).abs().max() <= 1e-10 * largest, name


@pytest.mark.parametrize(("block", "kwargs"), BLOCKS)
def test_block(block: type[nn.Module], kwargs: dict) -> None:
    module = randomise(block(**kwargs).double())
    torch.manual_seed(1)
    for size in [(8, 12)] if kwargs.get("pixel_shuffle") else [(8, 12), (7, 5), (1, 1)]:
        x = torch.randn(2, kwargs["channels"], *size, dtype=torch.float64)
        _assert_same_gradients(module, literal(module), [x])


@pytest.mark.parametrize(("block", "kwargs"), BLOCKS)
def test_block_gradcheck(block: type[nn.Module], kwargs: dict) -> None:
    module = randomise(block(**kwargs).double())
    side = kwargs.get("kv_stride", 2) if kwargs.get("pixel_shuffle") else 3
    torch.manual_seed(1)
    x = torch.randn(2, kwargs["channels"], side, side, dtype=torch.float64, requires_grad=True)
    names, values = zip(*module.named_parameters(), strict=True)

    def run(x: torch.Tensor, *parameters: torch.Tensor) -> torch.Tensor:
        return torch.func.functional_call(module, dict(zip(names, parameters, strict=True)), x)

    assert torch.autograd.gradcheck(run, (x, *values), fast_mode=True)


@pytest.mark.parametrize("gate_bias", [False, True])
@pytest.mark.parametrize(("low", "high"), [((8, 6), (4, 3)), ((7, 5), (4, 3)), ((1, 4), (1, 2))])
def test_fusion(gate_bias: bool, low: tuple[int, int], high: tuple[int, int]) -> None:
    module = randomise(LaplacianFusion(6, gate_bias=gate_bias).double())
    torch.manual_seed(1)
    inputs = [torch.randn(2, 6, *low).double(), torch.randn(2, 6, *high).double()]
    _assert_same_gradients(module, literal(module), inputs)
    for x in inputs:
        x.requires_grad_()
    names, values = zip(*module.named_parameters(), strict=True)

    def run(low: torch.Tensor, high: torch.Tensor, *parameters: torch.Tensor) -> torch.Tensor:
        return torch.func.functional_call(module, dict(zip(names, parameters, strict=True)), (low, high))

    assert torch.autograd.gradcheck(run, (*inputs, *values), fast_mode=True)


@pytest.mark.parametrize("origin", ORIGINS)
@pytest.mark.parametrize("norm", ["batch", "frozen_batch"])
@pytest.mark.parametrize("size", [(64, 64), (75, 49)])
def test_whole_backbone_and_neck(origin: str, norm: str, size: tuple[int, int]) -> None:
    config = CANetConfig.preset(origin, scale="nano")
    config = replace(config, stage_blocks=(1, 2, 2, 1), norm=norm, frozen_stages=-1)
    module = randomise(nn.Sequential(ResNet(config), build_neck(config)).double())
    torch.manual_seed(1)
    _assert_same_gradients(module, literal(module), [torch.randn(2, 3, *size).double()])


def test_sae_adds_the_same_vector_everywhere() -> None:
    module = randomise(SpatialAttentionEncoder(16).double())
    x = torch.randn(2, 16, 7, 9, dtype=torch.float64)
    added = literal(module)(x) - x
    torch.testing.assert_close(added, added[:, :, :1, :1].expand_as(added), rtol=0, atol=1e-13)


def test_query_per_pixel_does_not() -> None:
    module = randomise(SpatialAttentionEncoder(16, query="input").double())
    x = torch.randn(2, 16, 7, 9, dtype=torch.float64)
    added = module(x) - x
    assert (added - added[:, :, :1, :1]).abs().max() > 0.01
    control = SpatialAttentionEncoder(16, query="mean")
    assert sum(p.numel() for p in control.parameters()) == sum(p.numel() for p in module.parameters())


def test_a_block_overwrites_its_own_map_where_no_gradient_is_recorded() -> None:
    module = randomise(SpatialAttentionEncoder(16))
    x = torch.randn(2, 16, 7, 9)
    expected, kept = module(x), x.clone()
    assert torch.equal(x, kept)
    with torch.no_grad():
        assert module(x, inplace=True).data_ptr() == x.data_ptr()
    # Without a gradient torch gives MKL its products in another form, whose sums some CPUs order otherwise. The
    # longest have 20 terms (pixels); each rounds by up to half of 2**-23, and three follow each other.
    torch.testing.assert_close(x, expected, rtol=0, atol=60 * 2**-24 * float(expected.detach().abs().max()))


def test_pixel_shuffle_needs_sizes_that_divide() -> None:
    with pytest.raises(ValueError, match="does not divide by 2"):
        SpatialAttentionEncoder(16, pixel_shuffle=True)(torch.randn(1, 16, 7, 8))


def test_a_training_step_keeps_no_attention_matrix() -> None:
    """No saved tensor larger than four times the largest feature map of backbone and neck."""
    config = CANetConfig.preset("mmdet", scale="nano").from_scratch()
    module = nn.Sequential(ResNet(config), build_neck(config))
    x = torch.randn(1, 3, 192, 256)
    sizes: list[int] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: sizes.append(t.numel()) or t, lambda t: t):
        levels = module(x)
    maps = [*module[0](x).values(), *levels.values()]
    stem = config.stem_channels * 96 * 128
    assert max(sizes) <= 4 * max(stem, *(m.numel() for m in maps))
    with torch.autograd.graph.saved_tensors_hooks(lambda t: sizes.append(t.numel()) or t, lambda t: t):
        literal(module)(x)
    assert max(sizes) > 4 * max(stem, *(m.numel() for m in maps))


@pytest.mark.slow
def test_whole_r50_gradients() -> None:
    config = CANetConfig.preset("pytorch")
    module = randomise(nn.Sequential(ResNet(config), build_neck(config)).double())
    torch.manual_seed(1)
    twin = literal(module)
    x = torch.randn(1, 3, 96, 64, dtype=torch.float64)
    gradients = []
    for form in (module, twin):
        sum(level.square().mean() for level in form(x).values()).backward()
        gradients.append({name: p.grad for name, p in form.named_parameters() if p.requires_grad})
    largest = max(g.abs().max() for g in gradients[1].values())
    for name, gradient in gradients[1].items():
        assert (gradients[0][name] - gradient).abs().max() <= 1e-10 * largest, name
