"""Faults planted in the real trainer are caught from a few of its first steps, without an epoch of training."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from benchmarks import train as training
from benchmarks.cells import Cell
from benchmarks.cost.counts import count_macs
from benchmarks.cost.memory import peak_memory, training_memory
from benchmarks.datasets.augment import Sample
from benchmarks.datasets.loading import DetectionDataset, train_transform
from benchmarks.datasets.splits import load_split
from benchmarks.gate.judge import compare
from benchmarks.metrics.records import measure
from benchmarks.runner import _facts
from benchmarks.store import CellPaths, Stored
from benchmarks.trained import build_cell_model, detect
from canet.contract import Detector
from tests.benchmarks.conftest import RECIPE, make_cell, make_record
from tests.benchmarks.test_compare import one
from tests.conftest import TINY

STEPS = 3
CPU = torch.device("cpu")
SEEDS = [pytest.param(seed, marks=[pytest.mark.slow] if seed else []) for seed in range(5)]
"""One seed by default; five of five are caught with the slow tests."""


class Enough(Exception):
    """The steps that are looked at are done."""


class Few(training.Beginning):
    """Ends the training after the steps that a test looks at."""

    def add(self, step: int, losses: dict[str, float]) -> None:
        super().add(step, losses)
        if step + 1 == STEPS:
            raise Enough


def cell_of(seed: int) -> Cell:
    recipe = RECIPE.model_copy(update={"epochs": 16})
    return make_cell(model="fasterrcnn_fpn", split=TINY, seed=seed, recipe=recipe)


def begun(
    synthetic,
    seed: int,
    dataset: type[DetectionDataset] = DetectionDataset,
    change: Callable[[Detector], None] = lambda model: None,
) -> Stored:
    """A record of the first steps of the real loop, on the data and the model that are given."""
    cell = cell_of(seed)
    split = load_split(cell.dataset, cell.split, 0, synthetic.root.parent)
    model = build_cell_model(cell, len(synthetic.classes))
    change(model)
    augment = train_transform(cell.recipe.augment)
    images = dataset(synthetic, split.train, transform=augment, seed=cell.stream("augment"))
    beginning = Few()
    with pytest.raises(Enough):
        training.train(model, images, cell, device=CPU, beginning=beginning)
    facts = _facts(model, cell.image_size)
    record = make_record(cell, metrics=None, model=facts, first_steps=beginning.summary())
    return Stored(record, None, CellPaths.of(Path("x"), cell))


def failed(old: Stored, new: Stored) -> set[str]:
    return {check.what for check in compare([old], [new]) if check.verdict == "fail"}


LOSSES = "losses of the first steps"


class LabelsShifted(DetectionDataset):
    def _target(self, name: str) -> tuple[Tensor, Tensor, int]:
        boxes, labels, image = super()._target(name)
        return boxes, labels % len(self.prepared.classes) + 1, image


class BoxesShifted(DetectionDataset):
    def _target(self, name: str) -> tuple[Tensor, Tensor, int]:
        boxes, labels, image = super()._target(name)
        return boxes + 2, labels, image


class FlippedWithoutBoxes(DetectionDataset):
    def augmented(self, index: int) -> Sample:
        return super().augmented(index)._replace(boxes=self.sample(index).boxes)


@pytest.fixture(scope="module")
def sound(synthetic):
    """The records of the unchanged code, by seed, made when they are asked for."""
    known: dict[int, Stored] = {}

    def of(seed: int) -> Stored:
        if seed not in known:
            known[seed] = begun(synthetic, seed)
        return known[seed]

    return of


def test_the_same_code_begins_with_the_same_losses(synthetic, sound) -> None:
    assert begun(synthetic, 0).run.first_steps == sound(0).run.first_steps
    assert failed(sound(0), begun(synthetic, 0)) == set()


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("fault", [LabelsShifted, BoxesShifted, FlippedWithoutBoxes])
def test_targets_that_are_not_those_of_the_image_are_caught(synthetic, sound, fault, seed: int) -> None:
    assert failed(sound(seed), begun(synthetic, seed, fault)) == {LOSSES}


@pytest.mark.parametrize("seed", SEEDS)
def test_ten_times_the_learning_rate_is_caught(synthetic, sound, monkeypatch, seed: int) -> None:
    base = sound(seed)
    factor = training.lr_factor
    monkeypatch.setattr(training, "lr_factor", lambda *its: 10 * factor(*its))
    assert failed(base, begun(synthetic, seed)) == {LOSSES}


def one_more_convolution(model: Detector) -> None:
    name, conv = next((n, m) for n, m in model.named_modules() if n.startswith("neck") and isinstance(m, nn.Conv2d))
    parent = model.get_submodule(name.rpartition(".")[0])
    more = nn.Conv2d(conv.out_channels, conv.out_channels, 1)
    setattr(parent, name.rpartition(".")[2], nn.Sequential(conv, more))


@pytest.mark.parametrize("seed", SEEDS)
def test_one_more_convolution_is_caught(synthetic, sound, seed: int) -> None:
    found = failed(sound(seed), begun(synthetic, seed, change=one_more_convolution))
    assert found == {"parameters", "trainable", LOSSES}


@pytest.mark.parametrize("seed", SEEDS)
def test_detections_without_suppression_are_caught(synthetic, seed: int) -> None:
    """From frozen weights, as a change of the post-processing meets them: other detections, and AP50 that falls."""
    cell = cell_of(seed)
    split = load_split(cell.dataset, cell.split, 0, synthetic.root.parent)
    names = split.test[:6]
    model = build_cell_model(cell, len(synthetic.classes))

    def detected() -> Stored:
        content = detect(model, synthetic, names, CPU)
        digest = hashlib.sha256(content.dumps()).hexdigest()
        few = dataclasses.replace(split, test=names)
        its = make_record(cell).provenance.model_copy(update={"arithmetic": "portable"})  # one process, equal bits
        record = make_record(
            cell,
            metrics=measure(synthetic, few, content, None),
            weights_sha256="0" * 64,
            detections_sha256=digest,
            provenance=its,
        )
        return Stored(record, None, CellPaths.of(Path("x"), cell))

    base = detected()
    assert failed(base, detected()) == set()
    model.roi_heads.nms_thresh = 1.0
    assert "detections of the same weights" in failed(base, detected())


# Cost: counted and measured by the real code, on both sides of one job.


def profiled(cell: Cell, **cost: float) -> Stored:
    macs = cost.pop("macs", 1e9)
    return one("x", cell=cell, macs=macs, profiled=cost)


class OnePercentMore(nn.Module):
    """A layer, and beside it a convolution of a hundredth of the model's work whose result nobody uses."""

    def __init__(self, layer: nn.Conv2d, macs: float, pixels: int) -> None:
        super().__init__()
        self.layer = layer
        self.more = nn.Conv2d(layer.out_channels, max(round(0.01 * macs / layer.out_channels / pixels), 1), 1)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.layer(x)
        self.more(y)
        return y


@pytest.mark.parametrize("seed", SEEDS)
def test_one_percent_more_multiply_accumulates_are_caught(synthetic, seed: int) -> None:
    cell = cell_of(seed)
    model = build_cell_model(cell, len(synthetic.classes)).eval()
    images = [torch.rand(3, 64, 64, generator=torch.Generator().manual_seed(seed))]
    before = count_macs(model, images)["macs"]
    name, conv = next((n, m) for n, m in model.named_modules() if n.startswith("neck") and isinstance(m, nn.Conv2d))
    pixels = []
    handle = conv.register_forward_hook(lambda module, inputs, output: pixels.append(output.shape[-1] ** 2))
    assert count_macs(model, images)["macs"] == before
    handle.remove()
    setattr(
        model.get_submodule(name.rpartition(".")[0]), name.rpartition(".")[2], OnePercentMore(conv, before, pixels[0])
    )
    after = count_macs(model, images)["macs"]
    assert after / before == pytest.approx(1.01, abs=0.003)
    assert failed(profiled(cell, macs=before), profiled(cell, macs=after)) == {"MACs"}


@pytest.mark.parametrize("seed", SEEDS)
def test_a_fifth_more_memory_is_caught_and_the_same_code_is_not(synthetic, seed: int) -> None:
    """Kept from the network to the end of the image, or of the training step, as a cache that nobody empties is."""
    cell = cell_of(seed)
    model = build_cell_model(cell, len(synthetic.classes))
    samples = [
        DetectionDataset(synthetic, load_split(cell.dataset, cell.split, 0, synthetic.root.parent).train[:4])[i]
        for i in range(4)
    ]
    images, targets = [image for image, _ in samples], [target for _, target in samples]
    optimizer = partial(training.build_optimizer, recipe=cell.recipe)

    def measured() -> dict[str, float]:
        return {
            "peak_memory_bytes": peak_memory(model, images, device=CPU),
            "training_memory_bytes": training_memory(model, images, targets, device=CPU, optimizer=optimizer),
        }

    base, again = measured(), measured()
    assert failed(profiled(cell, **base), profiled(cell, **again)) == set()
    kept: list[Tensor] = []

    def keep(module: nn.Module, *its: object) -> None:
        kept[:] = [
            torch.empty(
                int(0.2 * base["training_memory_bytes" if module.training else "peak_memory_bytes"]), dtype=torch.uint8
            )
        ]

    model.register_forward_pre_hook(keep)
    found = failed(profiled(cell, **base), profiled(cell, **measured()))
    assert found == {"memory of inference", "memory of training"}
