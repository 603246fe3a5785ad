"""torch.export, torch.compile and ONNX with free sizes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from canet.config import ORIGINS, CANetConfig
from canet.deploy import DensePart, deploy, export_onnx
from canet.detector import CANet
from tests.canet.reference import randomise


class Levels(nn.Module):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.backbone, self.neck = model.backbone, model.neck

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        return tuple(self.neck(self.backbone(image)).values())


def _model(origin: str) -> CANet:
    torch.manual_seed(0)
    model = CANet(CANetConfig.preset(origin, scale="nano"), num_classes=3, image_size=64)
    randomise(nn.ModuleList([model.backbone, model.neck]))
    return model.eval()


def _close(found: tuple, expected: tuple) -> None:
    for a, b in zip(found, expected, strict=True):
        a = torch.as_tensor(a)
        assert a.shape == b.shape
        assert (a - b).abs().max() <= 1e-5 * b.abs().max()


@pytest.mark.slow
@pytest.mark.parametrize("deployed", [False, True])
@pytest.mark.parametrize("origin", ORIGINS)
@torch.no_grad()
def test_torch_export_with_free_sizes(origin: str, deployed: bool) -> None:
    model = _model(origin)
    levels = Levels(deploy(model) if deployed else model).eval()
    height, width = (torch.export.Dim(name, min=3, max=64) for name in ("height", "width"))
    image = torch.randn(1, 3, 128, 160)
    program = torch.export.export(levels, (image,), dynamic_shapes=({2: 32 * height, 3: 32 * width},)).module()
    for size in ((96, 128), (160, 224)):
        image = torch.randn(1, 3, *size)
        _close(program(image), levels(image))


@pytest.mark.slow
@torch.no_grad()
def test_onnx_with_free_sizes(tmp_path: Path) -> None:
    pytest.importorskip("onnxscript", reason="the onnx extra is not installed")
    runtime = pytest.importorskip("onnxruntime", reason="the onnx extra is not installed")
    model = deploy(_model("mmdet"))
    export_onnx(model, tmp_path / "canet.onnx")
    session = runtime.InferenceSession(tmp_path / "canet.onnx", providers=["CPUExecutionProvider"])
    assert [x.name for x in session.get_outputs()][4:6] == ["p6", "objectness2"]
    for size in ((96, 128), (160, 224)):
        image = torch.randn(1, 3, *size)
        _close(session.run(None, {"image": image.numpy()}), DensePart(model)(image))


@pytest.mark.slow
@pytest.mark.parametrize("deployed", [pytest.param(False, marks=pytest.mark.nightly), True])
def test_torch_compile(deployed: bool) -> None:
    model = _model("pytorch")
    levels = Levels(deploy(model) if deployed else model).eval()
    compiled = torch.compile(levels, dynamic=True)
    with torch.no_grad():
        for size in ((96, 128), (160, 224)):
            image = torch.randn(1, 3, *size)
            _close(compiled(image), levels(image))


@pytest.mark.slow
def test_torch_compile_traces_a_training_step_whole() -> None:
    """No graph break, forward and backward, on the backend that only captures."""
    model = Levels(_model("pytorch").train())
    image = torch.randn(2, 3, 96, 96)
    expected = model(image)
    found = torch.compile(model, backend="aot_eager", fullgraph=True)(image)
    _close(tuple(x.detach() for x in found), tuple(x.detach() for x in expected))
    sum(x.sum() for x in found).backward()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)
