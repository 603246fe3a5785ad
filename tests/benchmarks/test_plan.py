from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from benchmarks import plan
from benchmarks.cells import Cell
from benchmarks.errors import RequestError
from benchmarks.executors import Limits
from benchmarks.run import GpuRoom, _epochs_done
from benchmarks.store import EpochPoint
from tests.benchmarks.conftest import RECIPE, make_cell, make_record


@pytest.mark.parametrize(("text", "seconds"), [("9m", 540), ("1h30m", 5400), ("45s", 45), ("540", 540), ("2m5s", 125)])
def test_durations(text: str, seconds: float) -> None:
    assert plan.seconds(text) == seconds


@pytest.mark.parametrize("text", ["", "0", "m", "9x", "-3m", "9m m", "1.5h", "1h30", "9m30"])
def test_what_is_no_duration_is_refused_by_name(text: str) -> None:
    with pytest.raises(RequestError, match="--time-limit"):
        plan.seconds(text)


def test_pairs_come_before_the_next_seed_and_fold() -> None:
    cells = [
        make_cell(dataset=dataset, fold=fold, seed=seed, model=model)
        for dataset in ("synthetic_small", "neu_det")
        for fold in (0, 1)
        for seed in (0, 1)
        for model in ("canet", "retinanet", "fasterrcnn_fpn")
    ]
    assert plan.in_order(cells, "suite", ("canet", "fasterrcnn_fpn")) == cells
    ordered = plan.in_order(cells, "pairs", ("canet", "fasterrcnn_fpn"))
    assert sorted(ordered, key=cells.index) == cells
    first = [(c.fold, c.seed, c.dataset, c.model) for c in ordered[:8]]
    assert first == [
        (0, seed, dataset, model)
        for seed in (0, 1)
        for dataset in ("synthetic_small", "neu_det")
        for model in ("canet", "fasterrcnn_fpn")
    ]
    assert {c.model for c in ordered[:16]} == {"canet", "fasterrcnn_fpn"}


def ended(model: str, rate: float, rest: float):
    curve = tuple(EpochPoint(epoch=i, lr=0.1, losses={}, images_per_second=rate) for i in range(2))
    return make_record(make_cell(model=model), curve=curve, timings_s={"train": 99.0, "detect": rest})


def test_a_cell_costs_what_its_model_cost_and_an_unknown_model_what_the_slowest_did() -> None:
    costs = plan.Costs()
    assert costs.seconds(make_cell(), 1000) is None
    costs.ended(ended("canet", 10.0, 7.0))
    costs.ended(ended("retinanet", 20.0, 5.0))
    assert costs.seconds(make_cell(model="retinanet", fold=3), 1000) == plan.START_S + 50 + 5
    assert costs.seconds(make_cell(model="canet", seed=3), 1000) == plan.START_S + 100 + 7
    assert costs.seconds(make_cell(model="fcos"), 1000) == plan.START_S + 100 + 7
    assert costs.seconds(make_cell(dataset="neu_det"), 1000) is None
    costs.epoch(make_cell(model="retinanet"), 4.0)  # it runs beside others now
    assert costs.seconds(make_cell(model="retinanet"), 1000) == plan.START_S + 250 + 5
    costs.ended(make_record(make_cell(model="fcos"), status="failed"))
    assert costs.seconds(make_cell(model="fcos"), 1000) == plan.START_S + 250 + 7


def test_what_ends_in_time_comes_first_and_then_what_two_epochs_of_fit() -> None:
    costs = plan.Costs()
    costs.ended(ended("canet", 10.0, 5.0))
    cells = [make_cell(seed=seed, recipe=RECIPE.model_copy(update={"epochs": 100})) for seed in range(4)]
    # 1,510, 160, 50 and 2,010 seconds; two epochs and a start are 35, 8, 6 and 45 of them.
    images = dict(zip(cells, (15_000, 1500, 400, 20_000), strict=True))

    def begun(seconds: float, passing: float = 0.0, **more: dict[Cell, int]) -> tuple[list[int], list[int]]:
        """Seeds of what is begun and of what is left, where `passing` seconds go by over each that is begun."""
        left, out = list[Cell](), []
        limits = Limits(time.monotonic() + seconds)
        for cell in plan.those_that_fit(cells, images, costs, limits, left, **more):
            out.append(cell.seed)
            limits.deadline -= passing
        return out, [cell.seed for cell in left]

    assert begun(200) == ([1, 2, 0, 3], []), "what could end in no run of this limit waits for what ends in this one"
    assert begun(155, passing=60) == ([2, 0, 1], [3]), "1 would fit whole into another run, and nothing else fits here"
    assert begun(48, passing=20) == ([0, 1, 2], [3])
    assert begun(48, passing=25) == ([0, 1], [2, 3])
    assert begun(5) == ([], [0, 1, 2, 3])
    assert begun(200, done={cells[0]: 95}) == ([0, 1, 2, 3], []), "five epochs are left of it"


def test_a_saved_state_says_how_many_epochs_it_has_behind_it(tmp_path: Path) -> None:
    save_file({"a": np.zeros(2)}, tmp_path / "state", {"epoch": "7"})
    (tmp_path / "damaged").write_bytes(b"PK")
    assert [_epochs_done(tmp_path / name) for name in ("state", "damaged", "none")] == [7, 0, None]


def test_a_gpu_takes_one_cell_until_that_has_shown_what_it_takes() -> None:
    free = 80
    room = GpuRoom(15, lambda: free)
    assert room() == 1
    free -= 20
    room.first_epoch()
    assert room() == 2, "80 by 20 and half as much again"
    wide = GpuRoom(15, lambda: free)
    free -= 1
    wide.first_epoch()
    assert wide() == 4, "more take turns"
    wide.beside_each_other()
    wide.first_epoch()
    assert wide() == 15, "as many as cores and memory allow"
    tight = GpuRoom(15, lambda: free)
    free -= 50
    tight.first_epoch()
    assert tight() == 1
    free = 8000
    large = GpuRoom(200, lambda: free)
    large.beside_each_other()
    free -= 20
    large.first_epoch()
    assert large() == 47, "the service takes 48 processes, this one among them"
