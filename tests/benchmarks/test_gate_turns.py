"""Base and head timed in turns, each by its own source: slower post-processing is seen, the same code is not."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import pytest
import torch

from benchmarks.cells import NativeRecipe, Recipe
from benchmarks.gate import one_side, turns
from benchmarks.gate.checks import Check, Pair
from benchmarks.gate.costs import BATCH, TRAINING_STEP
from benchmarks.gate.turns import Checkout, Turns
from benchmarks.store import CellPaths, Stored
from benchmarks.suites import GateLimits
from benchmarks.train import build_optimizer
from benchmarks.trained import build_cell_model, open_trained, save_trained
from tests.benchmarks.conftest import make_cell, make_record
from tests.conftest import TINY

ROOT = Path(__file__).parents[2]
HERE = Checkout(ROOT)

SOUND = {
    "postprocess": "    def postprocess(self, raw: dict[str, Any], batch: Batch) -> list[Target]:\n",
    "network": "    def network(self, batch: Batch) -> dict[str, Any]:\n",
}
SLOWER = """    def {name}(self, *its):
        import time

        began = time.perf_counter()
        found = self._sound(*its)
        until = began + {factor} * (time.perf_counter() - began)
        while time.perf_counter() < until:
            pass
        return found

    def _sound(self, {its}):
"""


def copied(folder: Path, slower: str | None = None, factor: float = 1.2, its: str = "") -> Checkout:
    """The source in another folder, where a method of the detector, of the arguments `its`, takes `factor` as long."""
    for room in ("canet", "baselines", "ablations", "benchmarks"):
        shutil.copytree(ROOT / room, folder / room, ignore=shutil.ignore_patterns("__pycache__"))
    if slower is not None:
        file = folder / "canet" / "detector.py"
        text = file.read_text(encoding="utf-8")
        assert text.count(SOUND[slower]) == 1
        planted = SLOWER.format(name=slower, factor=factor, its=its)
        file.write_text(text.replace(SOUND[slower], planted), encoding="utf-8")
    return Checkout(folder)


def stored(synthetic, folder: Path, seed: int = 0, **changes: object) -> Stored:
    """A record with the weights of a model that nobody trained: its proposals are as many as it keeps at most."""
    cell = make_cell(model="fasterrcnn_fpn", split=TINY, image_size=64, seed=seed, **changes)
    paths = CellPaths.of(folder, cell)
    save_trained(build_cell_model(cell, len(synthetic.classes)), cell, synthetic.classes, paths.weights)
    its = make_record(cell).provenance.model_copy(update={"threads": 1})
    return Stored(make_record(cell, provenance=its), None, paths)


def verdicts(checks: list[Check]) -> dict[str, str]:
    return {check.what: check.verdict for check in checks}


def test_what_cannot_be_timed_is_grey_and_says_why(synthetic, tmp_path: Path) -> None:
    def said(turns: Turns, pair: Pair) -> str:
        (check,) = turns.checks([pair], GateLimits())
        assert check.verdict == "inconclusive"
        return check.head

    model, root = stored(synthetic, tmp_path / "runs"), synthetic.root.parent
    pair = Pair(model, model)
    assert "no source of the base" in said(Turns(None, HERE), pair)
    gone = dataclasses.replace(model, paths=CellPaths.of(tmp_path / "gone", model.run.cell))
    assert "weights are gone" in said(Turns(HERE, HERE), Pair(model, gone))
    absent = dataclasses.replace(HERE, python=tmp_path / "python")
    assert "the base cannot be timed" in said(Turns(absent, HERE, root), pair)
    (tmp_path / "torch.py").write_text("raise ImportError('no torch for this commit')")
    broken = Checkout(tmp_path)
    assert "the base cannot be timed: ImportError: no torch" in said(Turns(broken, broken, root), pair)
    assert Turns(HERE, HERE).checks([], GateLimits()) == []


CPU = torch.device("cpu")


def sample() -> dict[str, torch.Tensor]:
    """A training batch of one, as `one_side` reads it."""
    boxes = torch.tensor([[4.0, 4.0, 20.0, 20.0]])
    return {"training0": torch.rand(3, 64, 64), "boxes0": boxes, "labels0": torch.ones(1, dtype=torch.long)}


def test_a_training_step_is_the_recipes_and_leaves_the_model_alone(synthetic, tmp_path: Path, monkeypatch) -> None:
    trained = open_trained(stored(synthetic, tmp_path).paths.weights, CPU)
    recipe = trained.cell.recipe.model_copy(update={"clip_norm": 1e-3})
    trained = dataclasses.replace(trained, cell=trained.cell.model_copy(update={"recipe": recipe}))
    before = {name: value.clone() for name, value in trained.model.state_dict().items()}
    asked: list[object] = []
    norms: list[float] = []

    def build(model: torch.nn.Module, its: Recipe) -> torch.optim.Optimizer:
        asked.append(its)
        made = build_optimizer(model, its)
        sound = made.step

        def step(*rest: object) -> None:
            norms.append(
                float(torch.nn.utils.get_total_norm([p.grad for p in model.parameters() if p.grad is not None]))
            )
            sound(*rest)

        monkeypatch.setattr(made, "step", step)
        return made

    monkeypatch.setattr(one_side, "build_optimizer", build)
    step, reason = one_side.training_step(trained, sample(), CPU)
    assert reason is None
    step()
    assert asked == [recipe]
    assert norms == pytest.approx([1e-3, 1e-3], rel=1e-2), "one step to try it, one that was asked for, both clipped"
    assert not trained.model.training
    assert all(torch.equal(before[name], value) for name, value in trained.model.state_dict().items())


def test_a_turn_of_each_kind_is_taken_by_a_process_of_each_side(synthetic, tmp_path: Path) -> None:
    model = stored(synthetic, tmp_path / "runs")
    pair = Pair(model, model)
    samples = turns._write_samples(tmp_path / "samples.npz", pair, synthetic.root.parent)
    found = turns.timed(pair, (HERE, HERE), samples, turns=2)
    assert found.not_timed == {}
    for side in found.samples:
        assert {phase: len(ms) for phase, ms in side.items()} == dict.fromkeys(
            ("preprocess", "network", "postprocess", "end_to_end", "batch", "training_step"), 2
        )
        assert all(ms > 0 for values in side.values() for ms in values)


def test_why_no_training_step_can_be_taken_is_said(synthetic, tmp_path: Path) -> None:
    trained = open_trained(stored(synthetic, tmp_path).paths.weights, CPU)
    assert one_side.training_step(trained, {}, CPU) == (None, "there is no batch that both sides train on")
    library = NativeRecipe(trainer="library", epochs=1, batch_size=1)
    theirs = dataclasses.replace(trained, cell=trained.cell.model_copy(update={"recipe": library}))
    assert one_side.training_step(theirs, sample(), CPU) == (None, "the library's own trainer takes it")
    broken = dataclasses.replace(trained, model=torch.nn.Linear(1, 1))
    step, reason = one_side.training_step(broken, sample(), CPU)
    assert step is None
    assert reason.startswith("it failed: TypeError")


LIBRARY, FAILED = "the library's own trainer takes it", "it failed: RuntimeError: no"


@pytest.mark.parametrize(
    ("why", "verdict"),
    [
        ((LIBRARY, LIBRARY), "note"),
        ((None, FAILED), "inconclusive"),
        ((FAILED, FAILED), "inconclusive"),
        ((LIBRARY, FAILED), "inconclusive"),
    ],
)
@pytest.mark.parametrize("which", [(0,), (1,), (0, 1, 2)])
def test_a_kind_that_a_launch_did_not_time_is_said_and_the_rest_is_judged(
    why: tuple[str | None, str | None], verdict: str, which: tuple[int, ...]
) -> None:
    its = {"end_to_end": [9.0] * 20, "batch": [5.0] * 20}
    slower = {**its, "end_to_end": [12.0] * 20}
    step = {"training_step": [4.0] * 20}
    launches = [
        turns.Launch((its, slower), {"step": why}) if i in which else turns.Launch((its | step, slower | step))
        for i in range(3)
    ]
    found = verdicts(turns.judged("x", launches, GateLimits()))
    assert found == {"latency, end to end": "fail", BATCH: "pass", TRAINING_STEP: verdict}


@pytest.mark.slow
@pytest.mark.nightly
@pytest.mark.parametrize("seed", range(5))
def test_post_processing_that_takes_a_fifth_longer_fails_and_the_same_code_does_not(
    synthetic, tmp_path: Path, seed: int
) -> None:
    model = stored(synthetic, tmp_path / "runs", seed)
    pairs, root = [Pair(model, model)], synthetic.root.parent
    slow = Turns(HERE, copied(tmp_path / "slow", "postprocess", its="raw, batch"), root).checks(pairs, GateLimits())
    assert verdicts(slow)["latency, postprocess"] == "fail", slow
    same = Turns(HERE, copied(tmp_path / "same"), root).checks(pairs, GateLimits())
    phases = {f"latency, {p}" for p in ("preprocess", "network", "postprocess", "end to end")}
    assert set(verdicts(same)) == {*phases, BATCH, TRAINING_STEP}
    assert "fail" not in verdicts(same).values(), same


@pytest.mark.slow
@pytest.mark.nightly
def test_a_network_that_takes_twice_as_long_slows_batches_and_training_steps(synthetic, tmp_path: Path) -> None:
    model = stored(synthetic, tmp_path / "runs")
    head = copied(tmp_path / "slow", "network", 2.0, "batch")
    found = verdicts(Turns(HERE, head, synthetic.root.parent).checks([Pair(model, model)], GateLimits()))
    slower = {"latency, network", "latency, end to end", BATCH, TRAINING_STEP}
    assert slower <= {what for what, verdict in found.items() if verdict == "fail"}, found
