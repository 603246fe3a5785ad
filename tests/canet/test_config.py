"""CANetConfig and its variants: values, errors, and no torch."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import FrozenInstanceError, replace

import pytest

from canet.config import ORIGINS, SCALES, CANetConfig


@pytest.mark.parametrize("module", ["canet.config", "ablations.variants"])
def test_imports_without_torch(module: str) -> None:
    code = f"import sys, {module}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("origin", ORIGINS)
@pytest.mark.parametrize("scale", SCALES)
def test_presets(origin: str, scale: str) -> None:
    config = CANetConfig.preset(origin, scale=scale)
    assert (config.origin, config.scale) == (origin, scale)
    assert hash(config) == hash(CANetConfig.preset(origin, scale=scale))
    with pytest.raises(FrozenInstanceError):
        config.sae = False


def test_published_differences() -> None:
    pytorch, mmdet = CANetConfig.preset("pytorch"), CANetConfig.preset("mmdet")
    assert pytorch.anchor_sizes[0] == (32, 16, 8)
    assert mmdet.anchor_sizes == ((32,), (64,), (128,), (256,), (512,))
    assert pytorch.context_stages == (2, 3, 4)
    assert mmdet.context_stages == (1, 2, 3, 4)
    assert (pytorch.roi_levels, mmdet.roi_levels) == (5, 4)
    assert mmdet.box_loss_beta == 0


def test_nano_variants_share_the_small_image_protocol() -> None:
    for origin in ORIGINS:
        assert CANetConfig.preset(origin, scale="nano").rpn_post_nms == (128, 128)
        assert CANetConfig.preset(origin, scale="nano").anchor_sizes[0] == (16,)


@pytest.mark.parametrize(
    "changes",
    [
        {"neck": "bifpn"},
        {"norm": "layer"},
        {"context_stages": (0, 1)},
        {"cbd_fusion": ()},
        {"cbd_fusion": ("divide",)},
        {"frozen_stages": 5},
        {"sae_pixel_shuffle": True, "sae_query": "input"},
        {"sae_heads": 0},
        {"anchor_sizes": ((8,), (16, 32))},
        {"roi_levels": 6},
    ],
)
def test_impossible_values_are_refused(changes: dict) -> None:
    with pytest.raises(ValueError, match=next(iter(changes))):
        replace(CANetConfig(), **changes)


def test_unknown_names_are_refused() -> None:
    with pytest.raises(ValueError, match="preset"):
        CANetConfig.preset("paddle")
    with pytest.raises(ValueError, match="scale"):
        CANetConfig.preset("pytorch", scale="huge")
    with pytest.raises(ValueError, match="sea"):
        CANetConfig.preset("pytorch", sea=False)
