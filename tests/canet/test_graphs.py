"""Which steps are replayed, and what a replay must be like; that graphs replay right needs a GPU (tests/gpu)."""

from __future__ import annotations

import contextlib
import gc
import weakref
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchvision.models.detection.image_list import ImageList

from canet.contract import ResizeNormalizePad
from canet.detector import TwoStageDetector
from canet.graphs import graphed

IMAGES = ImageList(torch.arange(96.0).reshape(2, 3, 4, 4) / 96, [(4, 4), (4, 4)])


class Backbone(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 2, 1)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"c2": self.conv(x), "c3": self.conv(x[..., ::2, ::2])}


class Detector(TwoStageDetector):
    """On a CPU, and says that it is on CUDA."""

    def __init__(self) -> None:
        super().__init__(ResizeNormalizePad(4), Backbone(), nn.Identity(), nn.Identity(), nn.Identity())

    def parameters(self, recurse: bool = True) -> Iterator[Any]:
        return iter([SimpleNamespace(device=torch.device("cuda"))])


class MoreFeatures(Detector):
    def features(self, images: ImageList) -> dict[str, Tensor]:
        return {name: 2 * x for name, x in super().features(images).items()}


class TwoPasses(Detector):
    def network(self, batch: Any) -> dict[str, Any]:
        return {"first": super().network(batch), "second": super().network(batch)}


Make = Callable[[nn.Module, Tensor], Any]


@pytest.fixture
def capture(monkeypatch) -> Callable[[Make], list[torch.device]]:
    """Puts what it is given in the place of torch's capture; returns the devices that were current."""

    def use(make: Make) -> list[torch.device]:
        current: list[torch.device] = []

        @contextlib.contextmanager
        def device(which: torch.device) -> Iterator[None]:
            current.append(which)
            yield

        monkeypatch.setattr(torch.cuda, "device", device)
        monkeypatch.setattr(torch.cuda, "make_graphed_callables", lambda body, args, **_: make(body, *args))
        return current

    return use


class NoGradient(torch.autograd.Function):
    """Its input as it is, of which the gradient is NaN."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return grad * float("nan")


def replaying(body: nn.Module, sample: Tensor) -> Any:
    return body


def replaying_what_was_captured(body: nn.Module, sample: Tensor) -> Any:
    return lambda x: body(sample)


def without_gradients(body: nn.Module, sample: Tensor) -> Any:
    return lambda x: {name: NoGradient.apply(y) for name, y in body(x).items()}


def with_a_map_that_is_none(body: nn.Module, sample: Tensor) -> Any:
    return lambda x: {name: y * (float("nan") if name == "c3" else 1) for name, y in body(x).items()}


def test_a_replay_that_agrees_is_used_with_its_device_current(capture) -> None:
    current = capture(replaying)
    model, said = Detector().train(), list[str]()
    expected = model.features(IMAGES)
    with graphed(model, said.append) as graphs:
        assert not graphs.replayed
        found = model.features(IMAGES)
        assert model.features._replay is not None
        assert graphs.replayed
    assert said == []
    assert current == [IMAGES.tensors.device]
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert "features" not in vars(model)


@pytest.mark.parametrize("make", [replaying_what_was_captured, without_gradients, with_a_map_that_is_none])
def test_a_replay_that_does_not_agree_is_not_used(make: Make, capture) -> None:
    capture(make)
    model, said = Detector().train(), list[str]()
    with graphed(model, said.append) as graphs:
        model.features(IMAGES)
        assert model.features._replay is None
        assert not graphs.replayed
    (line,) = said
    assert "their numbers are" in line


@pytest.mark.parametrize("kind", [MoreFeatures, TwoPasses])
def test_a_subclass_with_a_step_of_its_own_keeps_it(kind: type[Detector], capture) -> None:
    capture(replaying)
    model = kind().train()
    expected = model.features(IMAGES)
    with graphed(model, pytest.fail):
        assert "features" not in vars(model)
        found = model.features(IMAGES)
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_what_was_captured_is_gone_after_the_block(capture) -> None:
    bodies: list[weakref.ref[nn.Module]] = []

    def replaying_as_torch_does(body: nn.Module, sample: Tensor) -> Any:
        eager = body.forward
        body.forward = lambda x: eager(x) if body.training else None
        bodies.append(weakref.ref(body))
        return body

    capture(replaying_as_torch_does)
    model = Detector().train()
    gc.disable()
    try:
        with graphed(model, pytest.fail):
            model.features(IMAGES)
        assert [body() for body in bodies] == [None]
    finally:
        gc.enable()
