"""A session: what fails is missing with its reason, and what was measured is not measured again."""

from __future__ import annotations

import contextlib
import itertools
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from benchmarks.cost import energy
from benchmarks.cost import session as module
from benchmarks.cost.engines import Form
from benchmarks.cost.session import Kept, Plan, ProfiledModel, Step, as_json, prepare, session
from benchmarks.models import build_model
from tests.benchmarks.cost.planted import Planted

CPU = torch.device("cpu")
IMAGES = [torch.rand(3, 64, 64, generator=torch.Generator().manual_seed(i)) for i in range(2)]
PLAN = Plan(runs=3, warmup=0, min_seconds=0.0, batch_sizes=(1,), seconds=0.01, count_images=1)


class Small(Planted):
    """Learns, and counts how often it ran."""

    def __init__(self, **spends: float) -> None:
        super().__init__(**spends)
        self.body = nn.Conv2d(3, 4, 3)
        self.runs = 0

    def network(self, batch: Tensor) -> Tensor:
        self.runs += 1
        return super().network(self.body(batch))

    def forward(self, images: list[Tensor], targets: Any = None) -> Any:
        if self.training:
            return {"loss": self.body(torch.stack(images)).sum()}
        return super().forward(images)


def _entry(model: nn.Module, samples: int = 2) -> ProfiledModel:
    step = Step([(IMAGES[0], {})] * samples, lambda m: torch.optim.AdamW(m.parameters()))
    return ProfiledModel(model, Form(), Form().of(model, IMAGES), step=step)


def _session(models: dict[str, nn.Module], plan: Plan = PLAN, **options: Any):
    return session({k: _entry(m) for k, m in models.items()}, IMAGES, device=CPU, plan=plan, **options)


def test_everything_is_measured():
    cost = _session({"a": Small()})["a"]
    assert cost.missing == {}
    assert cost.parameters["total"] == 4 * 27 + 4 + 1
    assert cost.parameters["in_evaluation"] == 4 * 27 + 4, "the planted weight takes no part"
    assert cost.macs["macs"] == 62 * 62 * 4 * 27
    assert min(cost.peak_memory_bytes, cost.training_memory_bytes) > 4 * 113
    assert cost.training_batch == 2
    assert len(cost.latency["samples_ms"]["end_to_end"]) == 3
    assert cost.throughput[1] > 0
    assert cost.energy_j is None
    json.dumps(as_json(cost))


class CannotLearn(Small):
    def forward(self, images: list[Tensor], targets: Any = None) -> Any:
        if self.training:
            raise ValueError("Expected more than 1 value per channel")
        return super().forward(images)


class CannotRun(Small):
    def network(self, batch: Tensor) -> Tensor:
        raise torch.OutOfMemoryError("planted")


def test_what_fails_is_missing_with_its_reason_and_the_others_go_on():
    costs = _session({"a": CannotRun(), "b": CannotLearn(), "c": Small()}, reference="a")
    lost = ("parameters.in_evaluation", "macs", "output_shapes", "peak_memory_bytes", "latency", "throughput.1")
    assert costs["a"].missing == dict.fromkeys(lost, "out of memory")
    assert costs["a"].parameters["total"] > 0
    assert (costs["a"].macs, costs["a"].latency, costs["a"].throughput) == (None, None, {1: None})
    assert costs["b"].missing == {"training_memory_bytes": "ValueError: Expected more than 1 value per channel"}
    assert costs["b"].training_memory_bytes is None
    assert costs["c"].missing == {}
    assert {cost.latency["reference"] for cost in (costs["b"], costs["c"])} == {"b"}


class Interrupted(Small):
    """Ctrl-C in its `at`-th inference."""

    def __init__(self, at: int) -> None:
        super().__init__()
        self.at = at

    def network(self, batch: Tensor) -> Tensor:
        if self.runs == self.at:
            raise KeyboardInterrupt
        return super().network(batch)


def test_an_interrupted_session_goes_on(tmp_path: Path):
    path, plan = tmp_path / "kept.json", replace(PLAN, seconds=0.0)
    whole = Small()
    _session({"a": Small(), "b": whole}, plan)
    second = Interrupted(whole.runs - 3)  # throughput takes three inferences
    with pytest.raises(KeyboardInterrupt):
        _session({"a": Small(), "b": second}, plan, kept=Kept(path, "the same"))
    kept = Kept(path, "the same")
    done = ["counting/a", "counting/b", "latency at batch 1", "memory of/a", "memory of/b"]
    assert list(kept.resumed) == [*done, "training memory of/a", "training memory of/b"]
    again = Small()
    costs = _session({"a": again, "b": Small()}, plan, kept=kept)
    assert again.runs == 3, "only throughput was left"
    assert costs["a"].macs["macs"] == 62 * 62 * 4 * 27
    assert len(costs["a"].latency["samples_ms"]["end_to_end"]) == 3
    assert costs["a"].throughput[1] > 0
    kept.done()
    assert not path.exists()


def test_what_another_session_kept_or_is_damaged_is_not_used(tmp_path: Path):
    path = tmp_path / "kept.json"
    assert Kept(path, "one").of("x", lambda: 1) == 1
    assert Kept(path, "one").of("x", lambda: 2) == 1
    assert Kept(path, "two").of("x", lambda: 3) == 3
    content = json.loads(path.read_text())
    content["kept"]["x"] = 4
    path.write_text(json.dumps(content))
    assert Kept(path, "two").of("x", lambda: 5) == 5
    path.write_text("{")
    assert Kept(path, "two").of("x", lambda: 6) == 6


def test_what_was_cut_is_measured_again_and_one_timing_more_is_whole_each_time(tmp_path: Path):
    """A limit in which every timing is cut by its share, and holds one of them whole."""
    plan = replace(PLAN, runs=40, warmup=0, latency_batches=(1, 2), batch_sizes=(1,), seconds=0.3, memory=False)
    models = {"a": Small(net=5.0), "b": Small(net=5.0)}

    def again(seconds: float) -> tuple[list[int], float]:
        costs = _session(models, plan, deadline=time.monotonic() + seconds, kept=Kept(tmp_path / "kept", "it"))
        rounds = [c["session"]["rounds"] for c in (costs["b"].latency, costs["b"].batch_latency[2])]
        return rounds, costs["b"].throughput_s[1]

    rounds, seconds = again(0.5)
    assert max(rounds) < 40
    for _ in range(20):  # a machine that is busy elsewhere needs more of them
        before, (rounds, seconds) = (rounds, seconds), again(5.0)
        assert all(new >= old for new, old in zip(rounds, before[0], strict=True)), "what has more rounds stays"
        if (rounds, seconds) == ([40, 40], 0.3):
            break
    assert (rounds, seconds) == ([40, 40], 0.3)
    before = models["b"].runs
    assert again(10.0) == ([40, 40], 0.3)
    assert models["b"].runs - before < 40, "all is kept"


def test_a_kept_timing_that_lacks_an_entry_is_measured_again(tmp_path: Path):
    plan = replace(PLAN, memory=False, seconds=0.0)
    _session({"a": Small()}, plan, kept=Kept(tmp_path / "kept", "it"))
    costs = _session({"a": Small(), "b": Small()}, plan, kept=Kept(tmp_path / "kept", "it"))
    assert costs["b"].latency is not None
    assert costs["b"].throughput


def test_what_fails_in_a_later_session_has_no_times_of_an_earlier_one(tmp_path: Path):
    """They would stand beside times of the others from another process."""
    plan = replace(PLAN, runs=40, latency_batches=(1, 2), batch_sizes=(), memory=False, count_images=0)
    kept = partial(Kept, tmp_path / "kept", "it")
    cut = _session({"a": Small(net=5.0), "b": Small(net=5.0)}, plan, deadline=time.monotonic() + 0.3, kept=kept())
    assert cut["b"].latency["session"]["cut"]
    broken = Small()
    broken.body = nn.Conv2d(4, 4, 3)  # not of three channels
    costs = _session({"a": Small(), "b": broken}, plan, kept=kept())
    assert (costs["b"].latency, costs["b"].batch_latency) == (None, {})
    assert {"latency", "batch_latency.2"} <= set(costs["b"].missing)
    assert len(costs["a"].latency["samples_ms"]["end_to_end"]) == 40


def test_energy_that_was_measured_is_there_when_the_time_is_up_or_nothing_meters_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    joules = itertools.count(step=5.0)

    @contextlib.contextmanager
    def meter(device: torch.device, works: bool = True) -> Iterator[Callable[[], float | None]]:
        yield lambda: next(joules) if works else None

    for where in (module, energy):
        monkeypatch.setattr(where, "energy_meter", meter)
    measured = _session({"a": Small()}, kept=Kept(tmp_path / "kept", "it"))["a"].energy_j
    assert measured > 0
    costs = _session({"a": Small(), "b": Small()}, kept=Kept(tmp_path / "kept", "it"), deadline=time.monotonic())
    assert costs["a"].energy_j == measured
    assert "energy_j" not in costs["a"].missing
    assert costs["b"].missing["energy_j"].startswith(module.TIME_IS_UP)
    monkeypatch.setattr(module, "energy_meter", partial(meter, works=False))
    assert _session({"a": Small()}, kept=Kept(tmp_path / "kept", "it"))["a"].energy_j == measured


def test_a_session_ends_near_its_deadline():
    began = time.monotonic()
    plan = Plan(runs=10**6, warmup=10**4, min_seconds=0, batch_sizes=(1, 2), seconds=60, count_images=1)
    costs = _session({"a": Small(net=1.0), "b": Small(net=1.0)}, plan, deadline=began + 2.0)
    assert time.monotonic() - began < 10.0
    assert costs["a"].latency["session"]["cut"]
    assert costs["a"].throughput[2] > 0


def test_all_that_is_known_is_saved_while_latencies_are_measured(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "SAVE_EVERY_S", 0.0)
    seen = []
    _session({"a": Small()}, saved=lambda costs: seen.append(as_json(costs["a"])))
    rounds = [len(one["latency"]["samples_ms"]["end_to_end"]) for one in seen if one["latency"]]
    assert rounds[:3] == [1, 2, 3]
    assert seen[0]["macs"] is not None
    assert seen[0]["latency"] is None


def test_forms_are_prepared_until_the_deadline():
    model = build_model("fasterrcnn_fpn", num_classes=3, image_size=64, scale="nano").eval()
    wanted = {"slow": ("m", Form("compile")), "plain": ("m", Form()), "none": ("m", Form("deploy"))}
    entries, skipped = prepare({"m": model}, wanted, IMAGES, deadline=time.monotonic() - 1)
    assert list(entries) == ["plain"]
    assert skipped["slow"] == "the time limit was reached before it was prepared"
    assert "no exact inference form" in skipped["none"]


def test_compiled_forms_are_made_for_every_batch_size(monkeypatch: pytest.MonkeyPatch):
    sizes: list[int] = []

    class Noting(Planted):
        def network(self, batch: Tensor) -> Tensor:
            sizes.append(len(batch))
            return batch

    # Compilation itself takes a minute; what is asked of the compiled model is what counts here.
    monkeypatch.setattr(Form, "of", lambda self, model, images: model)
    entries, _ = prepare({"m": Noting()}, {"m compile": ("m", Form("compile"))}, IMAGES, batch_sizes=(1, 4))
    assert sizes == [1, 4]
    assert entries["m compile"].preparation_s > 0
