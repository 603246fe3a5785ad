"""One model of each family, and the same random draws on every device."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from benchmarks.models import build_model, get, missing_extra
from tests.baselines.test_contract import scene

SIZE = 128
FAMILIES = (
    *("canet", "fasterrcnn_fpn", "fasterrcnn_mobilenet", "retinanet", "fcos", "ssdlite"),
    *("yolov5n", "yolov8n", "yolov9t", "yolov10n", "yolo12n", "yolo26n", "rtdetr_l", "dfine"),
)


def _param(name: str) -> Any:
    missing = missing_extra(name)
    return pytest.param(name, marks=pytest.mark.skipif(missing is not None, reason=f"NOT TESTED: {missing}"))


every_family = pytest.mark.parametrize("name", [_param(name) for name in FAMILIES])

IN_SINGLE = ("yolo", "rtdetr", "dfine")
"""How names of models begin whose losses mix float32 in and take no other."""

NOT_IN_DOUBLE = (*IN_SINGLE, "ssdlite", "fasterrcnn_mobilenet")
"""And of those whose depthwise convolutions take minutes in float64 on a CPU."""

family_and_precision = pytest.mark.parametrize(
    ("name", "dtype"),
    [
        pytest.param(*p.values, dtype, marks=p.marks, id=f"{p.values[0]}-{str(dtype)[6:]}")
        for p in map(_param, FAMILIES)
        for dtype in (torch.float64, torch.float32)
        if dtype == torch.float32 or not str(p.values[0]).startswith(NOT_IN_DOUBLE)
    ],
)


def build(name: str, num_classes: int = 3) -> nn.Module:
    """On the CPU, always the same."""
    torch.manual_seed(0)
    scale = next(iter(get(name).scales.values()))
    return build_model(name, num_classes=num_classes, image_size=SIZE, scale=scale).train()


def batch(
    device: torch.device, dtype: torch.dtype = torch.float32, boxes: bool = True
) -> tuple[list[Tensor], list[dict[str, Tensor]]]:
    """Two images of two boxes each, or of none."""
    pairs = [scene(index, boxes=2 if boxes else 0) for index in range(2)]
    images = [image.to(device, dtype) for image, _ in pairs]
    targets = [{"boxes": t["boxes"].to(device, dtype), "labels": t["labels"].to(device)} for _, t in pairs]
    return images, targets


class SameDraws(TorchFunctionMode):
    """Draws every random number on the CPU: samplers and denoising then choose the same on every device."""

    _SHAPED = frozenset({torch.rand, torch.randn, torch.randint, torch.randperm})
    _LIKE = frozenset({torch.rand_like, torch.randn_like, torch.randint_like})

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func in self._SHAPED:
            where = kwargs.pop("device", None)
            return func(*args, **kwargs).to(where or "cpu")
        if func in self._LIKE:
            where = kwargs.pop("device", args[0].device)
            return func(args[0].cpu(), *args[1:], **kwargs).to(where)
        return func(*args, **kwargs)
