"""pytest-benchmark comparisons, each against the literal form in the same run. Not part of the default tests:

    python -m pytest tests/perf --benchmark-enable --benchmark-only --benchmark-group-by=group

`python -m tests.perf.ratios` gives the interleaved ratios with intervals that docs/exact-forms.md shows.
"""

from __future__ import annotations

import pytest
import torch

from tests.perf.workloads import backbone_forms, canet, detector_forms, image, neck_forms, sae_forms, step_forms

SIZE = (608, 608)


@pytest.fixture(scope="module")
def model():
    return canet("pytorch", "r50", max(SIZE))


def _run(benchmark, forms: dict, form: str, group: str) -> None:
    benchmark.group = group
    with torch.inference_mode():
        benchmark.pedantic(forms[form], rounds=5, iterations=1, warmup_rounds=1)


@pytest.mark.parametrize("form", ["literal", "exact"])
def test_sae(benchmark, model, form: str) -> None:
    _run(benchmark, sae_forms(model, image(SIZE)), form, "SAE, 13 blocks")


@pytest.mark.parametrize("form", ["literal", "exact", "deployed"])
def test_backbone(benchmark, model, form: str) -> None:
    _run(benchmark, backbone_forms(model, image(SIZE)), form, "backbone")


@pytest.mark.parametrize("form", ["literal", "exact", "deployed"])
def test_neck(benchmark, model, form: str) -> None:
    _run(benchmark, neck_forms(model, image(SIZE)), form, "neck")


@pytest.mark.parametrize("form", ["literal", "exact"])
def test_training_step(benchmark, model, form: str) -> None:
    benchmark.group = "training step of backbone and neck"
    benchmark.pedantic(step_forms(model, image(SIZE))[form], rounds=3, iterations=1, warmup_rounds=1)


@pytest.mark.parametrize("form", ["Faster R-CNN as it ships", "Faster R-CNN folded, NHWC", "CANet", "CANet deployed"])
def test_detector(benchmark, model, form: str) -> None:
    _run(benchmark, detector_forms(model, SIZE), form, "image to detections")
