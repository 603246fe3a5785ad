"""Memory of what is known to the byte."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import Tensor, nn

from benchmarks.cost.memory import _peak, peak_memory, training_memory
from benchmarks.train import autocast_of
from tests.benchmarks.conftest import RECIPE
from tests.benchmarks.cost.planted import Planted

CPU = torch.device("cpu")


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
    assert peak_memory(Allocating(), [torch.rand(3, 8, 8)], device=CPU) == pytest.approx(expected, rel=1e-3)
    assert peak_memory(Planted(), [torch.rand(3, 8, 8)], device=CPU) < 10**4


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
        return training_memory(
            model, sample, [{}], device=CPU, optimizer=lambda m: torch.optim.AdamW(m.parameters(), **options)
        )

    weight = 4 * 10**6
    whole = step(foreach=False, fused=True)
    assert whole == pytest.approx(4 * weight, rel=1e-3)  # weight, gradient, two moments
    assert whole <= step(foreach=True)
    assert torch.equal(model.weight, torch.ones(10**6)), "a copy was trained"
    assert model.weight.grad is None


def test_the_forward_pass_of_a_training_step_runs_in_what_the_recipe_does() -> None:
    class Wide(nn.Module):
        """Four layers whose outputs, of 4 MB each in float32, are kept for the backward pass."""

        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.Sequential(*(nn.Linear(1000, 1000, bias=False) for _ in range(4)))

        def forward(self, images: list[Tensor], targets: list[dict[str, Tensor]]) -> dict[str, Tensor]:
            return {"loss": self.layers(torch.ones(1000, 1000)).float().sum()}

    def measured(precision: str) -> int:
        recipe = RECIPE.model_copy(update={"precision": precision})
        samples, targets = [torch.rand(3, 8, 8)], [{"boxes": torch.zeros(0, 4)}]
        sgd = partial(torch.optim.SGD, lr=0.1)
        return training_memory(
            Wide(),
            samples,
            targets,
            device=CPU,
            optimizer=lambda m: sgd(m.parameters()),
            forward_in=autocast_of(recipe, CPU),
        )

    assert measured("bf16") < 0.95 * measured("fp32")


def test_a_block_of_before_that_is_freed_meanwhile_counts_for_nothing():
    """At the address of a larger block of an earlier measurement, with whose bytes torch reports its release."""
    held: list[Tensor] = []
    _peak(lambda: held.append(torch.empty(40_000, dtype=torch.uint8)), CPU)
    address = held.pop().data_ptr()
    while not held or held[-1].data_ptr() != address:
        held.append(torch.empty(30_000, dtype=torch.uint8))
        assert len(held) < 10_000, "the allocator takes other addresses: nothing is tested"

    def run() -> None:
        held.clear()
        torch.empty(50_000, dtype=torch.uint8)

    assert _peak(run, CPU) == 50_000
