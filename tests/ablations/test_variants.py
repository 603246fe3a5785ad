"""Every variant builds, differs from the default as it says, and trains."""

from __future__ import annotations

import pytest
import torch

from ablations.variants import VARIANTS, apply
from canet.config import CANetConfig
from canet.detector import build_canet

NANO = CANetConfig.preset("pytorch", scale="nano")


def test_names_and_default() -> None:
    assert all(name == variant.name for name, variant in VARIANTS.items())
    assert apply("default", NANO) == NANO
    changed = [apply(name, NANO) for name in VARIANTS if name != "default"]
    assert NANO not in changed
    assert len(set(changed)) == len(changed)
    assert len({variant.label for variant in VARIANTS.values()}) == len(VARIANTS)


@pytest.mark.parametrize("name", [name for name, variant in VARIANTS.items() if variant.between])
def test_what_lies_between_the_ends_has_no_more_parameters_than_one_and_no_fewer_than_the_other(name: str) -> None:
    def count(config: CANetConfig) -> int:
        return sum(
            p.numel() for p in build_canet(num_classes=2, image_size=96, scale="nano", config=config).parameters()
        )

    assert count(NANO.plain()) <= count(apply(name, NANO)) <= count(NANO)


def test_unknown_variant_names_the_nearest() -> None:
    with pytest.raises(KeyError, match="no_sae"):
        apply("nosae", NANO)


@pytest.mark.parametrize("name", VARIANTS)
def test_variant_trains_and_detects(name: str) -> None:
    torch.manual_seed(0)
    model = build_canet(num_classes=2, image_size=96, scale="nano", config=apply(name, NANO))
    images = [torch.rand(3, 96, 96), torch.rand(3, 96, 48)]
    targets = [
        {"boxes": torch.tensor([[8.0, 8.0, 30.0, 28.0]]), "labels": torch.tensor([1])},
        {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)},
    ]
    losses = model.train()(images, targets)
    sum(losses.values()).backward()
    idle = [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert not idle
    with torch.no_grad():
        assert len(model.eval()(images)) == 2
