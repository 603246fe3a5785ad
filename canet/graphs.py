"""CUDA graphs of the part of a two-stage detector's training step whose shapes do not change: backbone and neck.

A small network on a large GPU waits for the host: a step of CANet at `lite0` on eight images is some 4,400 kernels,
which take the GPU 18 ms and the host 120. A graph launches those of backbone and neck, forward and backward, at once.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torchvision.models.detection.image_list import ImageList

from canet.detector import TwoStageDetector

_AGREE = 1e-3
"""How far a graph's numbers may be from the eager ones, of their length: sums in another order, in float32."""


@dataclass
class Graphs:
    """What became of the graphs of a training, as it goes."""

    replayed: bool = False
    """Whether they were captured, agreed and take the place of eager steps."""


@contextmanager
def graphed(model: nn.Module, say: Callable[[str], object]) -> Iterator[Graphs]:
    """Within the block, training steps of `model` replay graphs where that can be done; else they are what they were.

    The graphs are captured at the first step, for its shape; other shapes, evaluation and float32 under autocast are
    computed eagerly. Before a graph is used, its features and gradients are compared with the eager ones.

    A replay writes where the last one wrote: between two forward passes in training there is a backward pass, and
    before that the gradients are None, for what is added to them would be added to itself.

    Args:
        model: on its device, and not moved or copied within the block. Others than two-stage detectors on CUDA stay as
            they are, and so do subclasses that do more than backbone and neck, or do it otherwise.
        say: is told, in a line, when a graph could not be captured or did not agree.
    """
    graphs = Graphs()
    on_cuda = next(model.parameters()).device.type == "cuda"
    if not isinstance(model, TwoStageDetector) or not _is_plain(model) or not on_cuda:
        yield graphs
        return
    model.features = _Features(model, say, graphs)  # type: ignore[method-assign]
    try:
        yield graphs
    finally:
        del model.features
        gc.collect()  # a graphed module refers to itself, and with it stays the memory of its graphs


def _is_plain(model: TwoStageDetector) -> bool:
    """Whether a step of `model` is that of its base class, with one pass of backbone and neck."""
    steps = ("forward", "network", "features")
    return all(getattr(type(model), step) is getattr(TwoStageDetector, step) for step in steps)


class _Body(nn.Module):
    def __init__(self, model: TwoStageDetector) -> None:
        super().__init__()
        self.backbone, self.neck = model.backbone, model.neck

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        return dict(self.neck(self.backbone(images)))


class _Features:
    """Takes the place of a detector's method `features`."""

    def __init__(self, model: TwoStageDetector, say: Callable[[str], object], graphs: Graphs) -> None:
        self._model, self._say, self._graphs, self._eager = model, say, graphs, model.features
        self._shape: torch.Size | None = None
        self._replay: Callable[[Tensor], dict[str, Tensor]] | None = None

    def __call__(self, images: ImageList) -> dict[str, Tensor]:
        x = images.tensors
        if not self._model.training or torch.is_autocast_enabled("cuda"):
            return self._eager(images)
        if self._shape is None:
            self._shape = x.shape
            self._capture(x)
        if self._replay is None or x.shape != self._shape:
            return self._eager(images)
        return self._replay(x)

    def _capture(self, x: Tensor) -> None:
        if any(_draws_or_counts(m) for m in self._model.modules()):
            return
        # Gradients are accumulated on another stream than captured on; torch then waits where it must, and warns.
        if hasattr(torch.autograd.graph, "set_warn_on_accumulate_grad_stream_mismatch"):
            torch.autograd.graph.set_warn_on_accumulate_grad_stream_mismatch(False)
        body = _Body(self._model)  # eager, for the comparison: capturing replaces the other's forward
        try:
            with torch.cuda.device(x.device):  # whose stream is captured
                replay: Any = torch.cuda.make_graphed_callables(
                    _Body(self._model), (x.clone(),), allow_unused_input=True
                )
                # Of other images than were captured, whose numbers are there also where nothing is replayed.
                apart = _apart(body, replay, x.flip(-1))
        except RuntimeError as e:
            torch.cuda.synchronize(x.device)
            self._say(f"trains without CUDA graphs: {str(e).splitlines()[0]}")
            return
        if not apart <= _AGREE:
            self._say(f"trains without CUDA graphs: their numbers are {apart:.1e} from the eager ones")
            return
        self._replay = replay
        self._graphs.replayed = True


def _draws_or_counts(module: nn.Module) -> bool:
    """Whether a module draws random numbers or changes its buffers in training: capturing runs it some times more."""
    if isinstance(module, _BatchNorm):
        return module.training and module.track_running_stats
    return isinstance(module, nn.modules.dropout._DropoutNd) and module.training and module.p > 0


def _apart(eager: nn.Module, replay: Callable[[Tensor], dict[str, Tensor]], x: Tensor) -> float:
    """The largest relative difference of a feature map, or of all gradients as one vector, between two forms.

    NaN where one of them is not finite.
    """
    parameters = [p for p in eager.parameters() if p.requires_grad]

    def run(form: Callable[[Tensor], dict[str, Tensor]]) -> tuple[list[Tensor], list[Tensor | None]]:
        maps = list(form(x).values())
        # Squares, so that the gradient which goes in differs from place to place.
        total = torch.stack([m.square().mean() for m in maps]).sum()
        gradients = torch.autograd.grad(total, parameters, allow_unused=True)
        return [m.detach().clone() for m in maps], [g if g is None else g.clone() for g in gradients]

    (maps, gradients), (maps_replayed, gradients_replayed) = run(eager), run(replay)
    if [g is None for g in gradients] != [g is None for g in gradients_replayed]:
        return float("inf")
    pairs = [*zip(maps, maps_replayed, strict=True)]
    known = [(a, b) for a, b in zip(gradients, gradients_replayed, strict=True) if a is not None and b is not None]
    if known:
        pairs.append((torch.cat([a.flatten() for a, _ in known]), torch.cat([b.flatten() for _, b in known])))
    return float(torch.stack([(a - b).norm() / a.norm().clamp_min(1e-12) for a, b in pairs]).max())
