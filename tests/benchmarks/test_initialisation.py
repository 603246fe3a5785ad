"""What two of our own models share starts equal; each parameter keeps the distribution of its own initialiser."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from ablations.variants import VARIANTS
from benchmarks.models import build_model, get
from canet.initialisation import shared_name

PYRAMIDS = ("fasterrcnn_fpn", "fasterrcnn_fpn_v2", "retinanet", "retinanet_v2", "fcos")
# One vector per head: its bound is 1/sqrt(2 d), so that another number of heads is another distribution.
SCALED = {"one_head", "sixteen_heads"}


def build(name: str, variant: str = "default", scale: str = "nano", seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return build_model(name, num_classes=3, image_size=96, scale=get(name).scale(scale), variant=variant)


def random_parameters(model: nn.Module) -> dict[str, torch.Tensor]:
    """Parameters by shared name; constants (norms, biases at zero) are left out."""
    named = {shared_name(name): p.detach() for name, p in model.named_parameters()}
    return {name: p for name, p in named.items() if p.numel() > 1 and bool((p != p.flatten()[0]).any())}


@pytest.fixture(scope="module")
def canet() -> dict[str, torch.Tensor]:
    return random_parameters(build("canet"))


@pytest.mark.parametrize("variant", [name for name in VARIANTS if name != "default"])
def test_a_variant_starts_as_canet_where_they_agree(variant: str, canet: dict[str, torch.Tensor]) -> None:
    own = random_parameters(build("canet", variant))
    shared = [name for name in own if name in canet and own[name].shape == canet[name].shape]
    assert len(shared) > 30
    different = [name for name in shared if not torch.equal(own[name], canet[name])]
    assert all(name.endswith("sae.query") for name in different) if variant in SCALED else not different


@pytest.mark.parametrize("name", PYRAMIDS)
def test_a_baseline_starts_as_canet_where_they_agree(name: str, canet: dict[str, torch.Tensor]) -> None:
    own = random_parameters(build(name))
    shared = [key for key in own if key in canet and own[key].shape == canet[key].shape]
    assert not [key for key in shared if not torch.equal(own[key], canet[key])]
    backbone = [key for key in canet if key.startswith("backbone.") and ".sae." not in key and ".cbd." not in key]
    assert set(backbone) <= set(shared)
    if name == "fasterrcnn_fpn":
        fusion = ("neck.fusion.", "neck.conv_low.", "neck.conv_high.")
        assert set(own) == {n for n in canet if not n.startswith(fusion) and ".sae." not in n and ".cbd." not in n}


@pytest.mark.parametrize("scale", ["nano", "lite0"])
def test_the_plain_end_of_the_ladder_is_faster_rcnn(scale: str) -> None:
    from ablations.variants import apply
    from canet.config import CANetConfig
    from canet.detector import build_canet

    config = replace(apply("no_context", CANetConfig.preset("pytorch", scale=scale)), neck="fpn")
    assert config == CANetConfig.preset("pytorch", scale=scale).plain()
    torch.manual_seed(0)
    plain = build_canet(num_classes=3, image_size=96, scale=scale, config=config)
    faster = build("fasterrcnn_fpn", scale=scale)
    images = [torch.rand(3, 96, 96), torch.rand(3, 96, 64)]
    target = {"boxes": torch.tensor([[8.0, 8.0, 40.0, 30.0]]), "labels": torch.tensor([2])}
    for model in (plain, faster):
        model.train()
    losses = []
    for model in (plain, faster):
        torch.manual_seed(1)
        losses.append(model(images, [target, target]))
    assert losses[0].keys() == losses[1].keys()
    for key in losses[0]:  # the same operators on the same numbers
        torch.testing.assert_close(losses[0][key], losses[1][key], rtol=1e-5, atol=1e-6)
    with torch.no_grad():
        a, b = plain.eval()(images), faster.eval()(images)
    for x, y in zip(a, b, strict=True):
        assert len(x["boxes"]) == len(y["boxes"]) > 0
        torch.testing.assert_close(x["scores"], y["scores"], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "variant"), [("canet", "default"), ("canet", "bfp"), *((n, "default") for n in PYRAMIDS)]
)
def test_distributions_are_those_of_the_initialisers(name: str, variant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Mean and spread of every parameter, against the same builder without the drawing by name."""
    from canet import initialisation

    by_name = random_parameters(build(name, variant))
    monkeypatch.setattr(initialisation._Recorder, "draw_again", lambda self, model, seed: None)
    in_order = random_parameters(build(name, variant))
    assert by_name.keys() == in_order.keys()
    assert not [n for n in by_name if torch.equal(by_name[n], in_order[n])]
    for key, own in by_name.items():
        n, std = own.numel(), in_order[key].double().std().item()
        # Six standard errors of a difference of two samples; a normal's kurtosis, a uniform's is less.
        assert abs(own.double().std().item() - std) < 6 * std / math.sqrt(n - 1) + 1e-12, key
        assert abs(own.double().mean().item() - in_order[key].double().mean().item()) < 6 * std * math.sqrt(2 / n), key


def test_formulas_of_the_initialisers() -> None:
    """Standard deviations as written: N(0, 2/fan_out), RPN 0.01, uniform +-1/sqrt(fan_in), RetinaNet's prior."""
    canet = dict(build("canet").named_parameters())
    expected = {
        "backbone.layer4.0.conv2.weight": math.sqrt(2 / (192 * 9)),
        "backbone.layer4.0.sae.key.weight": math.sqrt(2 / 192),
        "rpn.head.conv.0.0.weight": 0.01,
        "roi_heads.box_head.fc6.weight": 1 / math.sqrt(3 * 3136),
        "neck.output.0.weight": math.sqrt(1 / (64 * 9)),
    }
    for name, std in expected.items():
        assert canet[name].std().item() == pytest.approx(std, rel=0.02), name  # 9,000 values and more: 0.7% a sigma
    bias = dict(build("retinanet").named_parameters())["head.classification_head.cls_logits.bias"]
    assert torch.equal(bias, torch.full_like(bias, -math.log(99)))


def test_models_built_after_one_another_differ() -> None:
    from canet.detector import build_canet

    torch.manual_seed(0)
    one, two = (random_parameters(build_canet(num_classes=3, image_size=96, scale="nano")) for _ in range(2))
    assert not [name for name in one if torch.equal(one[name], two[name])]
    state = torch.get_rng_state()
    torch.manual_seed(0)
    for name in ("canet", "fcos"):  # the generator stands where it stood after any two builds
        build_model(name, num_classes=3, image_size=96, scale="small")
    assert torch.equal(state, torch.get_rng_state())
