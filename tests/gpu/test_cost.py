"""Clocks, memory and records on a GPU."""

from __future__ import annotations

import copy
import statistics
import time
from pathlib import Path

import torch

from benchmarks import runner
from benchmarks.cost.clock import measure_latency
from benchmarks.progress import CellProgress
from benchmarks.store import CellPaths, RunRecord, read_record
from tests.benchmarks.conftest import RECIPE, make_cell
from tests.gpu.families import batch, build


def test_events_and_the_wall_clock_agree(cuda: torch.device) -> None:
    """What lies between two events on the device is within what lies between two synchronised looks at the clock."""
    model = build("canet").to(cuda).eval()
    images, _ = batch(cuda)
    wall, events = [], []
    with torch.inference_mode():
        for _ in range(5):
            model(images)
        for _ in range(30):
            start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            torch.cuda.synchronize(cuda)
            began = time.perf_counter()
            start.record()
            model(images)
            end.record()
            torch.cuda.synchronize(cuda)
            wall.append(1e3 * (time.perf_counter() - began))
            events.append(start.elapsed_time(end))
    apart = [w - e for w, e in zip(wall, events, strict=True)]
    assert min(apart) > -0.05, "an event's resolution is half a microsecond, its clock another than the host's"
    assert statistics.median(apart) < 0.2 + 0.05 * statistics.median(wall), "ms: two launches and a return"


def test_a_model_is_as_fast_as_itself(device: torch.device) -> None:
    """The latency ratio of two copies is 1, as far as its interval says and to 3%."""
    model = build("canet").to(device).eval()
    images, _ = batch(torch.device("cpu"))
    rounds = {"runs": 60, "warmup": 10} if device.type == "cuda" else {"runs": 3, "warmup": 1}
    found = measure_latency({"a": model, "b": copy.deepcopy(model)}, images, device=device, seed=0, **rounds)
    ratio, (low, high) = found["b"]["ratio"], found["b"]["ratio_interval"]
    assert low <= ratio <= high
    if device.type == "cuda":
        assert abs(ratio - 1) < 0.03


def test_a_cell_that_does_not_fit_is_recorded_as_such(cuda: torch.device, synthetic, tmp_path: Path) -> None:
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(cuda).total_memory
    torch.cuda.set_per_process_memory_fraction(96 * 2**20 / total, cuda)
    try:
        cell = make_cell(recipe=RECIPE.model_copy(update={"batch_size": 64}), device_class="a-card")
        record = runner.run_cell(cell, synthetic, runs=tmp_path, device=cuda, progress=CellProgress())
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0, cuda)
        torch.cuda.empty_cache()
    assert record.status == "out_of_memory"
    assert read_record(CellPaths.of(tmp_path, cell).record, RunRecord).status == "out_of_memory"
    small = cell.model_copy(update={"recipe": RECIPE.model_copy(update={"epochs": 1, "batch_size": 8}), "seed": 1})
    again = runner.run_cell(small, synthetic, runs=tmp_path, device=cuda, progress=CellProgress())
    assert again.status == "ok", again.error
