"""Parameter totals of the published variants, to the last one."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from canet.config import CANetConfig
from canet.detector import CANet, count_parameters

PYTORCH, MMDET = CANetConfig.preset("pytorch"), CANetConfig.preset("mmdet")
NINE_ANCHORS = replace(MMDET, anchor_sizes=PYTORCH.anchor_sizes)


def _model(config: CANetConfig, num_classes: int) -> CANet:
    with torch.device("meta"):
        return CANet(config, num_classes=num_classes, image_size=64)


@pytest.mark.parametrize(("classes", "total"), [(6, 51_923_888), (20, 51_995_638), (90, 52_354_388)])
def test_pytorch_variant(classes: int, total: int) -> None:
    assert count_parameters(_model(PYTORCH, classes))["total"] == total


def test_mmdet_variant() -> None:
    model = _model(MMDET, 6)
    published = count_parameters(model, as_published=True)
    assert published == {"total": 54_002_986, "trainable": 53_714_132}
    ours = count_parameters(model)
    assert {name: published[name] - ours[name] for name in ours} == {"total": 1_443_330, "trainable": 1_443_330}


def test_the_published_figure() -> None:
    """53.7 M: the mmdet variant with two classes and nine anchors, trainable parameters only."""
    assert count_parameters(_model(NINE_ANCHORS, 2), as_published=True)["trainable"] == 53_701_342


def test_parts() -> None:
    def count(module: torch.nn.Module) -> int:
        return sum(p.numel() for p in module.parameters())

    pytorch, mmdet = _model(PYTORCH, 6), _model(MMDET, 6)
    assert count(pytorch.neck) == 7_671_302
    assert count(mmdet.neck) == 9_645_580 - 1_443_330
    for name, expected in (("sae", (3_742_733, 3_779_984)), ("cbd", (2_521_741, 2_548_000))):
        for model, total in zip((pytorch, mmdet), expected, strict=True):
            blocks = [m for n, m in model.backbone.named_modules() if n.endswith(f".{name}")]
            assert sum(map(count, blocks)) == total
