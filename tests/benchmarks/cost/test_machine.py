"""Who else is busy, and energy."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import time

import pytest
import torch

from benchmarks.cost import energy, machine
from tests.benchmarks.cost.planted import Planted

CPU = torch.device("cpu")


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


def test_energy_off_cuda_is_unknown():
    assert energy.measure_energy(Planted(), [torch.rand(3, 8, 8)], device=CPU, seconds=0.1) is None


def test_energy_is_the_counters_difference_over_the_images(monkeypatch: pytest.MonkeyPatch):
    """A meter that turns at 100 W: a model that takes 10 ms uses a joule per image."""

    @contextlib.contextmanager
    def meter(device):
        yield lambda: 100 * time.monotonic()

    monkeypatch.setattr(energy, "energy_meter", meter)
    found = energy.measure_energy(Planted(net=10.0), [torch.rand(3, 8, 8)], device=CPU, seconds=0.2)
    assert 1.0 <= found < 2.0
