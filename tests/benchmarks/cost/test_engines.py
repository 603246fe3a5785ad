"""Forms in which a model runs: each finds what the model finds, or says that it cannot run."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from benchmarks.cost.engines import CannotRun, Captured, Form, agreement, arithmetic
from benchmarks.errors import RequestError
from benchmarks.models import MODELS, build_model, get, missing_extra
from tests.benchmarks.cost.planted import Planted

IMAGES = [torch.rand(3, 96, 128, generator=torch.Generator().manual_seed(i)) for i in range(3)]


# Untrained, all scores of ssdlite are equal, and there is nothing to compare.
LONGER = [name for name in MODELS if get(name).extra is None and name not in ("fasterrcnn_fpn", "ssdlite")]


def _model(name: str) -> nn.Module:
    torch.manual_seed(0)
    return build_model(name, num_classes=3, image_size=128, scale=next(iter(get(name).scales.values()))).eval()


@pytest.mark.parametrize(
    ("text", "device", "message"),
    [
        ("torhc", "cpu", "'torch'"),
        ("torch:fp8", "cpu", "known: bf16"),
        ("graphs", "cpu", "--device cuda"),
        ("torch:tf32", "cpu", "--device cuda"),
        ("onnx", "cuda", "CPU"),
        ("onnx:bf16", "cpu", "--form onnx"),
    ],
)
def test_forms_that_cannot_be_are_refused_at_once(text: str, device: str, message: str):
    with pytest.raises(RequestError, match=message):
        Form.parse(text, device)


def test_names_of_forms():
    assert [str(Form.parse(t, "cuda")) for t in ("torch", "torch:fp16", "compile", "graphs:tf32")] == [
        "",
        "fp16",
        "compile",
        "graphs tf32",
    ]


def test_agreement_by_hand():
    ours = {
        "boxes": torch.tensor([[0.0, 0, 10, 10], [20, 20, 30, 30], [50, 50, 60, 60], [5, 5, 9, 9]]),
        "scores": torch.tensor([0.9, 0.8, 0.7, 0.6]),
        "labels": torch.tensor([1, 2, 1, 1]),
    }
    assert agreement(ours, ours) == 1.0
    turned = {k: v.flip(0) for k, v in ours.items()}
    assert agreement(ours, turned) == 1.0
    for key, index, value in (("boxes", (0, 0), 0.6), ("scores", 1, 0.85), ("labels", 2, 3)):
        other = {k: v.clone() for k, v in ours.items()}
        other[key][index] = value
        assert agreement(ours, other) == 0.75
    assert agreement(ours, {k: v[:2] for k, v in ours.items()}) == 0.5
    tied = {**ours, "scores": torch.tensor([0.9, 0.6, 0.7, 0.6])}
    moved = {**tied, "boxes": tied["boxes"] + 7.0 * (tied["scores"] < 0.65)[:, None]}
    assert agreement(tied, moved) == 1.0
    assert agreement(ours, moved) < 1.0
    none = {k: v[:0] for k, v in ours.items()}
    assert agreement(none, none) == 1.0
    assert agreement(ours, none) == 0.0


@pytest.mark.parametrize("name", ["fasterrcnn_fpn", *(pytest.param(n, marks=pytest.mark.slow) for n in LONGER)])
def test_onnx_runtime_finds_the_same_from_image_to_detections(name: str):
    pytest.importorskip("onnxruntime", reason="the onnx extra is not installed")
    pytest.importorskip("onnx", reason="the onnx extra is not installed")
    model = _model(name)
    exported = Form("onnx").of(model, IMAGES)
    with torch.inference_mode():
        assert exported.preprocess(IMAGES[:1]) == IMAGES[:1], "everything is inside"
        for ours, theirs in zip(model(IMAGES[:2]), exported(IMAGES[:2]), strict=True):  # a batch is exported too
            assert {k: v.dtype for k, v in ours.items()} == {k: v.dtype for k, v in theirs.items()}
            assert agreement(ours, theirs) >= 0.95
    # Other images have other numbers of proposals on every level: none is fixed.
    dark = [torch.zeros(3, 96, 128), torch.ones(3, 96, 128)]
    with torch.inference_mode():
        for image in dark:
            assert len(exported([image])[0]["boxes"]) == len(model([image])[0]["boxes"])


@pytest.mark.yolo
@pytest.mark.skipif(missing_extra("yolov8n") is not None, reason="ultralytics is not installed")
def test_a_model_that_cannot_be_exported_says_so():
    pytest.importorskip("onnxruntime", reason="the onnx extra is not installed")
    with pytest.raises(CannotRun, match="cannot be traced to ONNX"):
        Form("onnx").of(_model("yolov8n"), IMAGES[:1])


def test_an_export_that_finds_something_else_is_refused():
    pytest.importorskip("onnxruntime", reason="the onnx extra is not installed")

    class Deceiving(nn.Module):
        """What it adds to a box depends on Python, which a trace cannot see."""

        def __init__(self) -> None:
            super().__init__()
            self.calls = 0

        def forward(self, images: list[Tensor]) -> list[dict[str, Tensor]]:
            self.calls += 1
            box = images[0].sum() * 0 + torch.tensor([[0.0, 0, 10, 10 + 5 * self.calls]])
            return [{"boxes": box, "scores": torch.ones(1), "labels": torch.ones(1, dtype=torch.int64)}]

    with pytest.raises(CannotRun, match="finds 0%"):
        Form("onnx").of(Deceiving(), IMAGES[:1])


def test_only_canet_is_deployed():
    with pytest.raises(CannotRun, match="no exact inference form"):
        Form("deploy").of(_model("fasterrcnn_fpn"), IMAGES)
    model = _model("canet")
    with torch.inference_mode():
        (ours,), (theirs,) = model(IMAGES[:1]), Form("deploy").of(model, IMAGES)(IMAGES[:1])
    assert agreement(ours, theirs) >= 0.95


def test_phases_of_low_precision_end_in_float32():
    model = _model("canet")
    low = Form("torch", "bf16").of(model, IMAGES)
    with torch.inference_mode():
        batch = low.preprocess(IMAGES[:1])
        assert batch.images.tensors.dtype == torch.float32
        raw = low.network(batch)
        assert {raw["logits"].dtype, raw["deltas"].dtype} == {torch.float32}
        exact = model.network(model.preprocess(IMAGES[:1]))
        assert not torch.equal(raw["logits"][:8], exact["logits"][:8]), "it ran in bfloat16"
        (found,) = low(IMAGES[:1])
    assert torch.isfinite(found["boxes"]).all()


def test_arithmetic_is_put_back():
    def flags() -> tuple[bool, bool]:
        return torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32

    before = flags()
    with arithmetic("tf32", "cpu"):
        assert flags() == (True, True)
        with arithmetic("fp32", "cpu"):
            assert flags() == (False, False)
        assert flags() == (True, True)
    assert flags() == before
    with arithmetic("bf16", "cpu"):
        assert (torch.rand(2, 2) @ torch.rand(2, 2)).dtype == torch.bfloat16
        with arithmetic("fp32", "cpu"):
            assert (torch.rand(2, 2) @ torch.rand(2, 2)).dtype == torch.float32


@pytest.mark.slow
def test_compiled_parts_find_the_same():
    model = _model("fasterrcnn_fpn")
    compiled = Form("compile").of(model, IMAGES)
    with torch.inference_mode():
        (ours,), (theirs,) = model(IMAGES[:1]), compiled(IMAGES[:1])
    assert agreement(ours, theirs) >= 0.95


class Dense(nn.Module):
    """A part whose code all of its instances share."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(x)


class WithDense(Planted):
    def __init__(self) -> None:
        super().__init__()
        self.backbone = Dense()

    def network(self, batch: torch.Tensor) -> torch.Tensor:
        return self.backbone(batch)


def test_all_sizes_run_compiled(monkeypatch: pytest.MonkeyPatch):
    """By itself, torch compiles a function for eight sizes and models of a process, and runs the others eagerly."""
    ran: list[int] = []

    def counting(graph, _):
        return lambda *args: (ran.append(1), graph.forward(*args))[1]

    whole = nn.Module.compile
    monkeypatch.setattr(nn.Module, "compile", lambda self, **k: whole(self, backend=counting, **k))
    model = Form("compile").of(WithDense(), [])
    with torch.inference_mode():
        for size in range(1, 12):
            ran.clear()
            model([torch.rand(3, 8, 8)] * size)
            assert ran, f"{size} images ran eagerly"


# ---------------------------------------------------------------- on a GPU


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["canet", "fasterrcnn_fpn", "retinanet", "yolov8n"])
@pytest.mark.parametrize("text", ["torch", "torch:tf32", "torch:bf16", "torch:fp16", "graphs", "graphs:fp16"])
def test_forms_on_a_gpu(name: str, text: str):
    if (missing := missing_extra(name)) is not None:
        pytest.skip(missing)
    model = _model(name).cuda()
    form = Form.parse(text, "cuda")
    running = form.of(model, IMAGES)
    images = [image.cuda() for image in IMAGES]
    with torch.inference_mode():
        for image in images[:1] * 2 + images[1:]:  # captured, replayed, replayed on other pixels
            (found,) = running([image])
            (exact,) = model([image])
            assert torch.isfinite(found["boxes"]).all()
            if form.precision == "fp32":
                assert agreement(exact, found) >= 0.9
        assert len(running(images[:2])) == 2  # another shape is another graph


@pytest.mark.gpu
def test_a_captured_function_computes_on_new_inputs():
    class Doubling(nn.Module):
        def forward(self, x: Tensor, more: list[Tensor]) -> dict[str, Tensor]:
            return {"y": x * 2 + more[0]}

    captured = Captured(Doubling())
    with torch.inference_mode():
        for value in (1.0, 3.0):
            x = torch.full((4,), value, device="cuda")
            assert captured(x, [x])["y"].tolist() == [3 * value] * 4
        assert captured(torch.ones(2, device="cuda"), [torch.ones(2, device="cuda")])["y"].tolist() == [3.0] * 2
    assert len(captured.graphs) == 2
