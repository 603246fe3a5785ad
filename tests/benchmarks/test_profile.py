"""Cost and time: counts against other counters and by hand, planted cases for the clock."""

from __future__ import annotations

import contextlib
import io
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from rich.console import Console
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from torchvision.models import detection
from typer.testing import CliRunner

from benchmarks import machine, profile
from benchmarks.cli import run_app
from benchmarks.datasets import catalogue
from benchmarks.errors import RequestError
from benchmarks.macs import counting
from benchmarks.models import MODELS, build_model, get, missing_extra
from benchmarks.store import CellPaths, Latency, Macs, write_record
from tests.benchmarks.conftest import make_cell, make_record

CPU = torch.device("cpu")


def _count(run) -> dict[str, int]:
    with torch.inference_mode(), counting() as counter:
        run()
    return dict(counter.macs), dict(counter.sampling)


# ---------------------------------------------------------------- counting


@pytest.mark.parametrize(
    ("module", "shape", "expected"),
    [
        (nn.Conv2d(6, 8, 3, stride=2, padding=1), (2, 6, 9, 9), 2 * 8 * 5 * 5 * 6 * 9),
        (nn.Conv2d(6, 12, (1, 3), groups=3, bias=False), (1, 6, 4, 7), 12 * 4 * 5 * 2 * 3),
        (nn.ConvTranspose2d(4, 6, 2, stride=2), (1, 4, 5, 5), 4 * 5 * 5 * 6 * 4),
        (nn.Linear(7, 5), (3, 4, 7), 3 * 4 * 7 * 5),
        (nn.Linear(7, 5, bias=False), (3, 7), 3 * 7 * 5),
        # In and out projections, then scores and weighted values of 2 heads over 5 positions.
        (nn.TransformerEncoderLayer(8, 2, 16, batch_first=True).eval().self_attn, (1, 5, 8), 4 * 5 * 64 + 2 * 25 * 8),
    ],
    ids=["conv", "grouped", "transposed", "linear", "no bias", "attention"],
)
def test_products_by_hand(module: nn.Module, shape: tuple[int, ...], expected: int):
    x = torch.rand(shape)
    arguments = (x, x, x) if isinstance(module, nn.MultiheadAttention) else (x,)
    macs, _ = _count(lambda: module.eval()(*arguments))
    assert sum(macs.values()) == expected


def test_matrix_products_by_hand():
    a, b, c = torch.rand(3, 4, 5), torch.rand(3, 5, 6), torch.rand(3, 4, 6)
    macs, _ = _count(lambda: (a @ b, torch.baddbmm(c, a, b), torch.einsum("bij,bjk->bik", a, b), a[0] @ b[0, :, 0]))
    assert sum(macs.values()) == 3 * (3 * 4 * 5 * 6) + 4 * 5


def test_scaled_dot_product_attention_by_hand():
    q, k, v = torch.rand(2, 3, 5, 8), torch.rand(2, 3, 7, 8), torch.rand(2, 3, 7, 8)
    macs, _ = _count(lambda: nn.functional.scaled_dot_product_attention(q, k, v))
    assert sum(macs.values()) == 2 * 3 * 5 * 7 * 16


def test_roi_align_by_hand():
    x, rois = torch.rand(1, 4, 20, 20), torch.tensor([[0.0, 0.0, 0.0, 8.0, 16.0], [0.0, 1.0, 1.0, 3.0, 3.0]])
    _, fixed = _count(lambda: torchvision.ops.roi_align(x, rois, (7, 7), 0.5, 2))
    assert fixed == {"torchvision.roi_align": 2 * 4 * 49 * 2 * 2 * 4}
    # Adaptive: as many samples per bin as the box, here 4 x 8 and 1 x 1 pixels of the map, has pixels in it.
    _, adaptive = _count(lambda: torchvision.ops.roi_align(x, rois, (2, 2), 0.5, -1))
    assert adaptive == {"torchvision.roi_align": (2 * 4 + 1) * 4 * 4 * 4}


def test_sampling_by_hand():
    x = torch.rand(1, 3, 4, 4)
    interpolate, boxes = nn.functional.interpolate, torch.rand(6, 4)
    _, sampling = _count(lambda: interpolate(x, size=(8, 8), mode="bilinear"))
    assert sampling == {"aten.upsample_bilinear2d": 3 * 64 * 4}
    _, sampling = _count(lambda: interpolate(x, size=(8, 8), mode="bicubic"))
    assert sampling == {"aten.upsample_bicubic2d": 3 * 64 * 16}
    _, sampling = _count(lambda: interpolate(x, size=(8, 8), mode="nearest"))
    assert sampling == {}
    _, sampling = _count(lambda: nn.functional.grid_sample(x, torch.zeros(1, 5, 5, 2), align_corners=False))
    assert sampling == {"aten.grid_sampler_2d": 3 * 25 * 4}
    _, sampling = _count(lambda: torchvision.ops.nms(boxes, torch.rand(6), 0.5))
    assert sampling == {"torchvision.nms": 2 * 15}


def test_deformable_convolution_by_hand():
    x, offset, weight = torch.rand(1, 4, 6, 6), torch.zeros(1, 18, 6, 6), torch.rand(8, 4, 3, 3)
    macs, sampling = _count(lambda: torchvision.ops.deform_conv2d(x, offset, weight, padding=1))
    assert macs == {"torchvision.deform_conv2d": 8 * 36 * 4 * 9}
    assert sampling == {"torchvision.deform_conv2d": 36 * 4 * 9 * 4}


def test_fused_convolutions_of_the_deployed_form_by_hand():
    from canet.deploy import conv2d

    x, w, b = torch.rand(1, 4, 6, 6), torch.rand(8, 4, 3, 3), torch.rand(8)
    for added in (None, torch.rand(1, 8, 6, 6)):
        macs, _ = _count(lambda added=added: conv2d(x, w, b, padding=1, add=added, relu=True))
        assert sum(macs.values()) == 8 * 36 * 4 * 9


def test_what_has_no_formula_is_listed():
    x = torch.rand(2, 3, 4, 4)
    with torch.inference_mode(), counting() as counter:
        nn.Sequential(nn.BatchNorm2d(3), nn.SiLU(), nn.Flatten()).eval()(x)
    assert set(counter.uncounted) == {"aten._native_batch_norm_legit_no_training", "aten.silu"}
    assert counter.uncounted_elements["aten.silu"] == 2 * 3 * 16


@pytest.mark.parametrize("name", torchvision.models.list_models(module=detection))
def test_products_equal_torchs_own_counter_on_every_torchvision_detector(name: str):
    small = {} if name.startswith("ssd") else {"min_size": 96, "max_size": 128}
    torch.manual_seed(0)
    model = getattr(detection, name)(weights=None, weights_backbone=None, **small).eval()
    image = [torch.rand(3, 90, 110)]
    with torch.no_grad(), FlopCounterMode(display=False) as theirs, counting() as ours:
        model(image)
    assert 2 * sum(ours.macs.values()) == theirs.get_total_flops() > 0


def test_convolutions_and_linear_layers_equal_fvcores():
    from fvcore.nn import FlopCountAnalysis

    convolutions = nn.Conv2d(3, 8, 3, stride=2), nn.Conv2d(8, 8, 3, groups=8)
    model = nn.Sequential(*convolutions, nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(32, 9)).eval()
    x = torch.rand(1, 3, 33, 33)
    theirs = FlopCountAnalysis(model, x).unsupported_ops_warnings(False)
    macs, _ = _count(lambda: model(x))
    assert sum(macs.values()) == theirs.by_operator()["conv"] + theirs.by_operator()["linear"]


def test_activations_equal_fvcores():
    from fvcore.nn import ActivationCountAnalysis

    convolutions = nn.Conv2d(3, 8, 3, stride=2), nn.Conv2d(8, 8, 3, groups=8)
    model = nn.Sequential(*convolutions, nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(32, 9)).eval()
    x = torch.rand(1, 3, 33, 33)
    theirs = ActivationCountAnalysis(model, x).unsupported_ops_warnings(False)
    with torch.inference_mode(), counting() as counter:
        model(x)
    assert counter.activations == theirs.total() == 8 * 16 * 16 + 8 * 14 * 14 + 9


def _beyond_products(model: nn.Module) -> dict[str, int]:
    """What mmcv's and mmengine's counter adds per call: norms twice per element; ReLU, pooling and biases once."""
    added: dict[str, int] = {}

    def note(module: nn.Module, inputs: tuple[Tensor, ...], out: Tensor) -> None:
        if isinstance(module, (nn.BatchNorm2d, torchvision.ops.FrozenBatchNorm2d)):
            added["norm"] = added.get("norm", 0) + 2 * out.numel()
        elif isinstance(module, nn.ReLU):
            added["relu"] = added.get("relu", 0) + out.numel()
        elif isinstance(module, nn.MaxPool2d):
            added["pool"] = added.get("pool", 0) + inputs[0].numel()
        elif isinstance(module, (nn.Conv2d, nn.Linear)) and module.bias is not None:
            added["bias"] = added.get("bias", 0) + out.numel()

    for module in model.modules():
        module.register_forward_hook(note)
    return added


def test_published_figure_of_faster_rcnn_r50():
    """MMDetection states 207.07 GFLOPs at 1280 x 800 with 80 classes and 1,000 proposals. They are MACs."""
    with torch.device("meta"):
        model = detection.fasterrcnn_resnet50_fpn(weights=None, weights_backbone=None, num_classes=81).eval()
        image, pooled = torch.zeros(1, 3, 800, 1280), torch.zeros(1000, 256, 7, 7)
    added = _beyond_products(model)

    def run() -> None:
        model.rpn.head(list(model.backbone(image).values()))
        model.roi_heads.box_predictor(model.roi_heads.box_head(pooled))

    macs, _ = _count(run)
    products = sum(macs.values())
    assert products / 1e9 == pytest.approx(206.33, abs=0.005)
    functional_relu = 256 * sum(h * w for h, w in [(200, 320), (100, 160), (50, 80), (25, 40), (13, 20)])
    assert (products + sum(added.values()) - functional_relu) / 1e9 == pytest.approx(207.07, abs=0.005)


@pytest.mark.mmdet
def test_mmengines_counter_on_faster_rcnn_r50():
    """Convolutions and linear layers equal to the last digit; it adds norms and upsampling, and calls MACs FLOPs."""
    from mmengine.analysis import FlopAnalyzer

    class Dense(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = detection.fasterrcnn_resnet50_fpn(weights=None, weights_backbone=None, num_classes=81)

        def forward(self, image: Tensor, pooled: Tensor) -> Any:
            features = list(self.model.backbone(image).values())
            heads = self.model.roi_heads
            return self.model.rpn.head(features), heads.box_predictor(heads.box_head(pooled))

    model, inputs = Dense().eval(), (torch.zeros(1, 3, 256, 320), torch.zeros(1000, 256, 7, 7))
    macs, _ = _count(lambda: model(*inputs))
    theirs = FlopAnalyzer(model, inputs).unsupported_ops_warnings(False).by_operator()
    assert sum(macs.values()) == theirs.pop("conv") + theirs.pop("linear")
    assert set(theirs) == {"batch_norm", "upsample_nearest2d"}


def test_published_figure_of_retinanet_r50():
    """MMDetection's documentation states 239.32 GFLOPs at 1280 x 800 (80 classes, P6 from C5). They are MACs."""
    from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
    from torchvision.ops.feature_pyramid_network import LastLevelP6P7

    with torch.device("meta"):
        backbone = resnet_fpn_backbone(
            backbone_name="resnet50", weights=None, returned_layers=[2, 3, 4], extra_blocks=LastLevelP6P7(2048, 256)
        )
        model = detection.RetinaNet(backbone, num_classes=80).eval()
        image = torch.zeros(1, 3, 800, 1280)
    added = _beyond_products(model)
    macs, _ = _count(lambda: model.head(list(model.backbone(image).values())))
    assert (sum(macs.values()) + sum(added.values())) / 1e9 == pytest.approx(239.32, abs=0.005)


@pytest.mark.yolo
@pytest.mark.skipif(missing_extra("yolov8n") is not None, reason="ultralytics is not installed")
def test_published_figures_of_yolov8n():
    """Ultralytics states 3.2 M parameters and 8.7 GFLOPs at 640 px and 80 classes: twice the MACs."""
    from baselines.ultralytics_models import build_yolo

    model = build_yolo(num_classes=80, image_size=640, scale="n")
    from ultralytics.utils.torch_utils import get_flops

    image = torch.rand(3, 640, 640)
    assert profile.count_parameters(model)["total"] / 1e6 == pytest.approx(3.2, abs=0.05)
    counted = profile.count_macs(model, [image])
    assert counted["flops"] / 1e9 == pytest.approx(8.7, abs=0.05)
    assert counted["flops"] == 2 * counted["macs"]
    # Its 8.9 GFLOPs "unfused" are these and four operations, doubled, for each element of a norm.
    norms = []
    for module in model.eval().modules():
        if isinstance(module, nn.BatchNorm2d):
            module.register_forward_hook(lambda m, inputs, out: norms.append(out.numel()))
    with torch.inference_mode():
        model([image])
    unfused = counted["flops"] + 2 * 4 * sum(norms)
    assert unfused / 1e9 == pytest.approx(8.9, abs=0.05)
    assert unfused == pytest.approx(1e9 * get_flops(model.detector, 640), rel=1e-9)
    # "Fused", norms folded into convolutions, it is the 8.7: folding changes no product.
    model.detector.fuse(verbose=False)
    assert profile.count_macs(model, [image])["macs"] == counted["macs"]


# The models of small_defects and, of the others, one with a fixed input: in the default run.
MAIN = ("canet", "fasterrcnn_fpn", "retinanet", "yolov8n", "ssdlite")
FIXED_SIDE = {"ssd300": 300, "ssdlite": 320}


def _registered(name: str):
    missing = missing_extra(name)
    marks = [getattr(pytest.mark, extra)] if (extra := get(name).extra) else []
    if name not in MAIN:
        marks.append(pytest.mark.slow)
    return pytest.param(name, marks=[*marks, pytest.mark.skipif(missing is not None, reason=missing or "")])


@pytest.mark.parametrize("name", [_registered(name) for name in MODELS])
def test_every_model_is_counted_at_its_real_input(name: str):
    torch.manual_seed(0)
    smallest = next(iter(get(name).scales.values()))
    model = build_model(name, num_classes=3, image_size=128, scale=smallest)
    model.train()
    images = [torch.rand(3, 100, 128), torch.rand(3, 128, 90)]
    counted = profile.count_macs(model, images)
    assert model.training, "counting must leave the mode as it was"
    Macs(**counted)
    # The first layer of MMDetection's YOLOX sees every second pixel as channels of its own.
    side = FIXED_SIDE.get(name, 128)
    assert counted["input_shape"] == ([1, 12, 64, 64] if name == "yolox" else [1, 3, side, side])
    assert counted["macs"] > 1e7
    assert set(counted["by_operator"]) >= {"aten.convolution"}
    assert sum(counted["by_operator"].values()) == pytest.approx(counted["macs"] + counted["sampling_macs"])
    assert 0 < counted["coverage"] < 1
    pools = get(name).stage in ("two-stage", "multi-stage") and get(name).family != "deformable_detr"
    assert (counted["proposals"] is not None) == pools
    assert profile.count_macs(model, images) == counted


def test_parameters_of_a_model_with_everything():
    model = nn.ModuleDict({"a": nn.Linear(2, 3), "b": nn.BatchNorm1d(4), "c": nn.Linear(2, 3)})
    model["c"].weight = model["a"].weight  # shared: counted once
    model["b"].weight.requires_grad_(False)
    counted = profile.count_parameters(model)
    assert counted["total"] == 6 + 3 + 8 + 3
    assert counted["trainable"] == 6 + 3 + 4 + 3
    assert counted["buffers"] == 4 + 4 + 1
    assert counted["by_module"] == {"a": 9, "b": 8, "c": 3}
    assert counted["total"] == sum(counted["by_module"].values())


# ---------------------------------------------------------------- the clock


class Planted(nn.Module):
    """A model under the contract that spends given milliseconds in given places."""

    def __init__(self, pre: float = 0.0, net: float = 0.0, post: float = 0.0, around: float = 0.0, first: float = 0.0):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))
        self.spends = {"pre": pre, "net": net, "post": post, "around": around}
        self.first = first

    def _spend(self, where: str) -> None:
        if self.spends[where]:  # a sleep of nothing gives the core away
            time.sleep(self.spends[where] / 1e3)

    def preprocess(self, images: list[Tensor]) -> Tensor:
        self._spend("pre")
        if self.first:
            time.sleep(self.first / 1e3)
            self.first = 0.0
        return torch.stack(images)

    def network(self, batch: Tensor) -> Tensor:
        self._spend("net")
        return batch

    def postprocess(self, raw: Tensor, batch: Tensor) -> list[dict[str, Tensor]]:
        self._spend("post")
        return [{"boxes": torch.zeros(0, 4)} for _ in raw]

    def forward(self, images: list[Tensor]) -> list[dict[str, Tensor]]:
        self._spend("around")
        batch = self.preprocess(images)
        return self.postprocess(self.network(batch), batch)


def _latency(models: dict[str, nn.Module], **changes):
    options = {"device": CPU, "runs": 10, "warmup": 2, "seed": 0} | changes
    return profile.measure_latency(models, [torch.rand(3, 8, 8)], **options)


def test_a_sleep_shows_in_its_phase_and_end_to_end():
    result = _latency({name: Planted(**{name: 8.0}) for name in ("pre", "net", "post")})
    phase_of = {"pre": "preprocess", "net": "network", "post": "postprocess"}
    for name, found in result.items():
        for phase in ("preprocess", "network", "postprocess"):
            assert (found["p50"][phase] >= 8.0) == (phase == phase_of[name]), (name, phase)
        assert found["p50"]["end_to_end"] >= 8.0


def test_work_outside_the_three_phases_shows_as_the_difference_to_end_to_end():
    p50 = _latency({"a": Planted(net=1.0, around=8.0)})["a"]["p50"]
    assert p50["preprocess"] + p50["network"] + p50["postprocess"] < 8.0 <= p50["end_to_end"]


def test_a_slow_first_call_is_apart():
    found = _latency({"a": Planted(net=1.0, first=60.0)})["a"]
    assert found["first_call_ms"] >= 60.0
    assert found["p99"]["end_to_end"] < 60.0


class Queued(Planted):
    """A device that works later: `network` queues its work, and whoever synchronises waits for it."""

    def __init__(self) -> None:
        super().__init__()
        self.queue = 0.0

    def network(self, batch: Tensor) -> Tensor:
        self.queue += 8.0
        return batch

    def synchronize(self) -> None:
        time.sleep(self.queue / 1e3)
        self.queue = 0.0

    def postprocess(self, raw: Tensor, batch: Tensor) -> list[dict[str, Tensor]]:
        self.synchronize()  # results are needed on the host here
        return super().postprocess(raw, batch)


def test_queued_work_is_charged_to_the_network(monkeypatch: pytest.MonkeyPatch):
    model = Queued()
    monkeypatch.setattr(profile, "synchronizer", lambda device: model.synchronize)
    synchronised = _latency({"a": model})["a"]["p50"]
    assert synchronised["network"] >= 8.0 > synchronised["postprocess"]
    # Without synchronising, the same work seems to be post-processing.
    monkeypatch.setattr(profile, "synchronizer", lambda device: lambda: None)
    missing = _latency({"a": model})["a"]["p50"]
    assert missing["postprocess"] >= 8.0 > missing["network"]
    assert min(synchronised["end_to_end"], missing["end_to_end"]) >= 8.0


def test_samples_are_kept_whole_and_interleaved():
    order: list[str] = []

    class Noting(Planted):
        def __init__(self, name: str) -> None:
            super().__init__()
            self.name = name

        def preprocess(self, images: list[Tensor]) -> Tensor:
            order.append(self.name)
            return super().preprocess(images)

    result = _latency({name: Noting(name) for name in "abc"}, runs=20, warmup=0)
    for found in result.values():
        Latency(**found)
        assert {len(v) for v in found["samples_ms"].values()} == {20}
        assert found["session"]["rounds"] == 20
        whole = np.asarray(found["samples_ms"]["end_to_end"])
        assert found["p99"]["end_to_end"] == pytest.approx(np.percentile(whole, 99))
        assert found["p50"]["end_to_end"] == pytest.approx(np.median(whole))
    timed = order[3:]  # after the first calls
    rounds = ["".join(timed[i : i + 6 : 2]) for i in range(0, len(timed), 6)]
    assert all(sorted(r) == ["a", "b", "c"] for r in rounds)
    assert len(set(rounds)) > 3, "the order within rounds is random"


def test_outliers_are_flagged_and_stay():
    flagged = profile._summary({"end_to_end": [1.0] * 97 + [1.1, 1.2, 50.0]})
    assert flagged["outliers"]["end_to_end"] == 3
    assert flagged["p99"]["end_to_end"] > 1.2


def test_runs_go_on_until_the_seconds_are_full():
    found = _latency({"a": Planted(net=5.0)}, runs=1, warmup=0, min_seconds=0.1)["a"]
    assert sum(found["samples_ms"]["end_to_end"]) >= 100.0
    assert found["session"]["rounds"] <= 20


def test_warm_up_goes_on_until_stable():
    class Warming(Planted):
        def network(self, batch: Tensor) -> Tensor:
            self.spends["net"] = max(4.0, self.spends["net"] * 0.85)
            return super().network(batch)

    session = _latency({"a": Warming(net=24.0)}, runs=1, warmup=6)["a"]["session"]
    assert session["warmup_rounds"] > 6


def test_the_mode_of_the_request_is_checked():
    with pytest.raises(ValueError, match="reference"):
        _latency({"a": Planted()}, reference="b")
    with pytest.raises(ValueError, match="at least one"):
        _latency({})


def _series(rng: np.random.Generator, slowdown: float, rounds: int = 200) -> tuple[np.ndarray, np.ndarray]:
    """Two series of one machine: common slow drift, a common busy spell, own noise, own rare outliers."""
    drift = np.cumsum(rng.normal(0, 0.004, rounds))
    busy = np.where((np.arange(rounds) > 60) & (np.arange(rounds) < 140), 1.4, 1.0)
    machine = 10 * np.exp(drift) * busy
    a, b = (machine * np.exp(rng.normal(0, 0.05, rounds)) * np.where(rng.random(rounds) < 0.05, 4.0, 1.0) for _ in "ab")
    return a * slowdown, b


def test_intervals_of_ratios_hold_what_they_promise():
    """A/A contains 1, and 10% more does not, in at least 90 of 100 runs: on drifting, noisy, spiky series."""
    rng = np.random.default_rng(7)
    equal = slower = 0
    for _ in range(100):
        _, (low, high) = profile.paired_ratio(*_series(rng, 1.0))
        equal += low <= 1 <= high
        ratio, (low, high) = profile.paired_ratio(*_series(rng, 1.1))
        slower += low > 1
        assert ratio == pytest.approx(1.1, abs=0.05)
    assert equal >= 90
    assert slower >= 90


def test_interval_by_hand():
    """Of 10 ratios, the 2nd and the 9th hold the median with 1 - 2 * 11 / 1024 = 97.9%, the 3rd and 8th with 89%."""
    ratio, interval = profile.paired_ratio(np.arange(10, 0, -1) * 3.0, np.full(10, 3.0))
    assert (ratio, interval) == (5.5, (2.0, 9.0))
    assert profile.paired_ratio([2.0, 4.0, 6.0], [2.0, 2.0, 2.0]) == (2.0, (1.0, 3.0))


@pytest.mark.timing
@pytest.mark.timeout(900)
@pytest.mark.parametrize("busy", [False, True], ids=["idle", "busy"])
def test_intervals_of_ratios_hold_on_this_machine(busy: bool):
    """The same with a real network on a real clock, the second core idle or busy."""

    class Real(Planted):
        def __init__(self, repeats: int) -> None:
            super().__init__()
            self.body = nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 8, 3))
            self.repeats = repeats

        def network(self, batch: Tensor) -> Tensor:
            for _ in range(self.repeats):
                self.body(batch)
            return batch

    images = [torch.rand(3, 40, 40) for _ in range(4)]
    burner = [subprocess.Popen([sys.executable, "-c", "while True: pass"])] if busy else []
    equal = slower = 0
    try:
        for seed in range(100):
            torch.manual_seed(seed)
            models = {"a": Real(10), "b": Real(10), "slower": Real(11)}  # each in memory of its own
            found = profile.measure_latency(models, images, device=CPU, runs=200, warmup=5, seed=seed)
            low, high = found["b"]["ratio_interval"]
            equal += low <= 1 <= high
            slower += found["slower"]["ratio_interval"][0] > 1
    finally:
        for process in burner:
            process.kill()
            process.wait()
    print(f"A/A holds 1: {equal} of 100; 10% slower told from 1: {slower} of 100")
    assert (equal >= 90, slower >= 90) == (True, True), (equal, slower)


def test_throughput_by_batch_size():
    models = {"fast": Planted(net=2.0), "slow": Planted(net=8.0)}
    found = profile.measure_throughput(
        models, [torch.rand(3, 8, 8)], device=CPU, batch_sizes=[1, 4], seconds=0.1, seed=0
    )
    assert found["slow"][1] <= 1000 / 8
    assert found["slow"][4] <= 4 * 1000 / 8
    assert found["fast"][1] > found["slow"][1]
    assert found["slow"][4] > 2 * found["slow"][1]


def test_throughput_without_the_memory_is_missing_not_zero():
    class Large(Planted):
        def network(self, batch: Tensor) -> Tensor:
            if len(batch) > 1:
                raise torch.cuda.OutOfMemoryError("planted")
            return batch

    found = profile.measure_throughput(
        {"a": Large(net=1.0), "b": Planted(net=1.0)},
        [torch.rand(3, 8, 8)],
        device=CPU,
        batch_sizes=[1, 2],
        seconds=0.02,
        seed=0,
    )
    assert found["a"][1] > 0
    assert found["a"][2] is None
    assert found["b"][2] > 0


def test_a_busy_machine_is_marked():
    with machine.watched_machine(CPU) as quiet:
        time.sleep(0.5)
    burner = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        time.sleep(0.3)
        with machine.watched_machine(CPU) as busy:
            time.sleep(1.0)
    finally:
        burner.kill()
        burner.wait()
    assert busy["busy"]
    assert busy["other_cores"] > machine.BUSY_CORES
    assert busy["threads"] == torch.get_num_threads()
    known = {"cores", "governor", "cpu_mhz", "temperature_c", "throttled", "load_1min", "gpu"}
    assert quiet.keys() == busy.keys() >= known
    assert busy["gpu"] is None


def test_our_own_work_does_not_make_the_machine_busy():
    with machine.watched_machine(CPU) as state:
        end = time.monotonic() + 0.5
        while time.monotonic() < end:
            pass
    with machine.watched_machine(CPU) as idle:
        time.sleep(0.5)
    # Whatever else runs here is the same in both.
    assert state["other_cores"] < idle["other_cores"] + 0.6


class Allocating(Planted):
    """4 MB of weights; while it runs, two maps of 8 MB live at once at most."""

    def __init__(self) -> None:
        super().__init__()
        self.big = nn.Parameter(torch.zeros(10**6))

    def network(self, batch: Tensor) -> Tensor:
        x = torch.ones(2 * 10**6)
        y = x + 1
        del x
        return (y + 1)[:1]


def test_memory_of_inference_is_weights_and_what_lives_at_once():
    expected = 4 + 4 * 10**6 + 2 * 8 * 10**6
    assert profile.peak_memory(Allocating(), [torch.rand(3, 8, 8)], device=CPU) == pytest.approx(expected, rel=1e-3)
    assert profile.peak_memory(Planted(), [torch.rand(3, 8, 8)], device=CPU) < 10**4


class Learning(nn.Module):
    """One weight of 4 MB: its gradient and, in AdamW, two states of the same size."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(10**6))

    def forward(self, images: list[Tensor], targets: list[dict[str, Tensor]]) -> dict[str, Tensor]:
        assert self.training
        assert len(images) == len(targets)
        return {"loss": self.weight.sum()}


def test_memory_of_a_training_step_has_gradients_and_optimiser_state():
    model, sample = Learning(), [torch.rand(3, 8, 8)]

    def step(**options) -> int:
        return profile.training_memory(
            model, sample, [{}], device=CPU, optimizer=lambda m: torch.optim.AdamW(m.parameters(), **options)
        )

    weight = 4 * 10**6
    whole = step(foreach=False, fused=True)
    assert whole == pytest.approx(4 * weight, rel=1e-3)  # weight, gradient, two moments
    assert whole <= step(foreach=True)
    assert torch.equal(model.weight, torch.ones(10**6)), "a copy was trained"
    assert model.weight.grad is None


def test_a_training_step_without_the_memory_is_missing():
    class Large(Learning):
        def forward(self, images, targets):
            raise torch.OutOfMemoryError("planted")

    adam = lambda m: torch.optim.AdamW(m.parameters())  # noqa: E731
    assert profile.training_memory(Large(), [torch.rand(3, 8, 8)], [{}], device=CPU, optimizer=adam) is None


def test_energy_off_cuda_is_unknown():
    assert profile.measure_energy({"a": Planted()}, [torch.rand(3, 8, 8)], device=CPU, seconds=0.1) == {"a": None}


def test_energy_is_the_counters_difference_over_the_images(monkeypatch: pytest.MonkeyPatch):
    """A meter that turns at 100 W: a model that takes 10 ms uses a joule per image."""

    @contextlib.contextmanager
    def meter(device):
        yield lambda: 100 * time.monotonic()

    monkeypatch.setattr(profile, "energy_meter", meter)
    found = profile.measure_energy({"a": Planted(net=10.0)}, [torch.rand(3, 8, 8)], device=CPU, seconds=0.2)
    assert 1.0 <= found["a"] < 2.0


# ---------------------------------------------------------------- the command


def test_command_profiles_models_beside_each_other(data_root: Path, synthetic, tmp_path: Path):
    out = tmp_path / "profile.json"
    arguments = "--model fasterrcnn_fpn --model canet:no_sae --model fasterrcnn_fpn --images 2 --runs 3 --warmup 1"
    arguments += f" --min-seconds 0 --batch-size 2 --image-size 96 --data-root {data_root} --out {out}"
    done = CliRunner().invoke(profile.app, arguments.split())
    assert done.exit_code == 0, done.output
    assert "Random weights" in done.output
    assert max(map(len, done.output.splitlines())) <= 140
    content = json.loads(out.read_text())
    assert list(content["models"]) == ["fasterrcnn_fpn", "canet:no_sae", "fasterrcnn_fpn (2)"]
    first, _, again = content["models"].values()
    assert first["macs"] == again["macs"]
    assert len(first["latency"]["samples_ms"]["end_to_end"]) == 3
    assert first["latency"]["ratio"] == 1.0
    assert first["throughput"]["2"] > 0
    assert content["weights"] == "random"
    assert content["provenance"]["threads"] == torch.get_num_threads()


def test_command_measures_forms_and_says_what_has_none(data_root: Path, synthetic, tmp_path: Path):
    out = tmp_path / "profile.json"
    arguments = "--model fasterrcnn_fpn --form torch --form deploy --form torch:bf16 --images 1 --runs 2 --warmup 0"
    arguments += f" --min-seconds 0 --batch-size 1 --image-size 96 --data-root {data_root} --out {out}"
    done = CliRunner().invoke(profile.app, arguments.split())
    assert done.exit_code == 0, done.output
    assert "not measured: fasterrcnn_fpn deploy: only CANet" in done.output
    content = json.loads(out.read_text())
    assert list(content["models"]) == ["fasterrcnn_fpn", "fasterrcnn_fpn bf16"]
    assert list(content["not_measured"]) == ["fasterrcnn_fpn deploy"]
    plain, low = content["models"].values()
    assert (low["engine"], low["precision"]) == ("torch", "bf16")
    assert plain["macs"] == low["macs"]
    assert plain["training_memory_bytes"] > plain["peak_memory_bytes"] > plain["parameters"]["state_bytes"]
    assert low["training_memory_bytes"] is None
    assert plain["energy_j"] is None
    assert {"cudnn_benchmark", "mkldnn", "deterministic"} <= set(content["session"]["settings"])


def test_command_takes_trained_weights(data_root: Path, synthetic, tmp_path: Path):
    classes = len(catalogue.get("synthetic_small").classes)
    for fold in (1, 0):
        cell = make_cell(model="fasterrcnn_fpn", image_size=96, fold=fold)
        paths = CellPaths.of(tmp_path, cell)
        write_record(paths.record, make_record(cell))
        torch.manual_seed(5 + fold)
        weights = build_model("fasterrcnn_fpn", num_classes=classes, image_size=96, scale="nano").state_dict()
        save_file({k: v.contiguous() for k, v in weights.items()}, paths.weights)
    found = profile._trained_cell(tmp_path, "synthetic_small", "fasterrcnn_fpn", "default", "nano", 96)
    assert found == cell, "the first fold"
    model = profile._load(found, "synthetic_small", data_root, tmp_path)
    assert all(torch.equal(v, weights[k]) for k, v in model.state_dict().items())
    with pytest.raises(RequestError, match="no trained fasterrcnn_fpn for synthetic_small at scale nano and 128 px"):
        profile._trained_cell(tmp_path, "synthetic_small", "fasterrcnn_fpn", "default", "nano", 128)
    arguments = f"--model fasterrcnn_fpn --image-size 96 --images 1 --trained {tmp_path} --data-root {data_root}"
    arguments += " --runs 1 --warmup 0 --min-seconds 0 --batch-size 1"
    done = CliRunner().invoke(profile.app, arguments.split())
    assert done.exit_code == 0, done.output
    assert f"Weights of {tmp_path}" in done.output.replace("\n", "")


def test_tables_fit_a_terminal_of_100_columns():
    latency = {n: {**f, "reference": "canet:mutual_attention"} for n, f in _latency({"a": Planted(net=2.0)}).items()}
    cost = {
        "parameters": profile.count_parameters(nn.Linear(9, 9)) | {"total": 41_300_000, "trainable": 41_100_000},
        "macs": {"macs": 207e9, "coverage": 0.5, "activations": 3e8, "proposals": 1000.0, "uncounted": {"aten.add": 3}},
        "peak_memory_bytes": 3 * 10**9,
        "training_memory_bytes": 9 * 10**9,
    }
    cost["parameters"]["state_bytes"] = 165_000_000
    slow = {name: {**one, "p50": dict.fromkeys(one["p50"], 1234.5)} for name, one in latency.items()}
    names = ["canet:mutual_attention compile fp16", "yolov8n"]
    latency = dict.fromkeys(names, slow["a"])
    console = Console(width=100, file=io.StringIO())
    for table in profile._tables(
        dict.fromkeys(names, cost), latency, {n: {1: 20.0, 16: None} for n in names}, dict.fromkeys(names, 1.5)
    ):
        console.print(table)
    text = console.file.getvalue()
    assert "…" not in text
    for needed in ("training", "8583", "1234.50", "out of memory", "1.000 [1.000, 1.000]", "J per image"):
        assert needed in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--model canet --form graphs", "--device cuda"),
        ("--suite small_defect", "small_defects"),
        ("--model canet --reference canet --form torch:bf16", "reference"),
        ("--model canet --trained nowhere", "no trained canet"),
        ("--model fastrcnn_fpn", "fasterrcnn_fpn"),
        ("--model canet:no_sea", "no_sae"),
        ("--model fasterrcnn_fpn:no_sae", "library_anchors"),
        ("--model canet --scale nanno", "nano"),
        ("--model canet --dataset synthetic_smal", "synthetic_small"),
        ("--model canet --device cudda", "device"),
        ("--model canet --reference retinanet", "reference"),
    ],
)
def test_wrong_requests_end_with_one_line_and_2(
    arguments: str, message: str, data_root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr(sys, "argv", ["profile", *arguments.split(), "--data-root", str(data_root)])
    with pytest.raises(SystemExit) as left:
        run_app(profile.app)
    assert left.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error:")
    assert message in line


def test_help_starts_without_torch():
    program = "import sys; import benchmarks.profile; sys.exit('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], cwd=Path(__file__).parents[2], timeout=60)
    assert done.returncode == 0
