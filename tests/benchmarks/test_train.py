from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load, save

from benchmarks import models
from benchmarks import train as training
from benchmarks.cells import Cell, Recipe
from benchmarks.datasets.loading import DetectionDataset, train_transform
from benchmarks.datasets.prepared import PreparedDataset
from benchmarks.datasets.splits import load_split
from benchmarks.models import missing_extra
from benchmarks.progress import CellProgress
from benchmarks.runner import build_cell_model
from benchmarks.store import EpochPoint
from benchmarks.train import Diverged, build_optimizer, lr_factor, parameter_groups, train
from canet.contract import Batch, Detector, ResizeNormalizePad
from tests.benchmarks.conftest import RECIPE, make_cell


def recipe(**changes: object) -> Recipe:
    return Recipe(**{**RECIPE.model_dump(), "epochs": 10, **changes})


@pytest.mark.parametrize("schedule", ["one_cycle", "cosine", "step", "constant"])
def test_learning_rates_stay_between_zero_and_peak(schedule: str) -> None:
    r = recipe(schedule=schedule, milestones=(8,) if schedule == "step" else (), warmup_iters=7)
    factors = [lr_factor(r, step, 13) for step in range(130)]
    assert all(0 < f <= 1 for f in factors)
    assert max(factors) == pytest.approx(1, abs=0.02)


def test_one_cycle_equals_torchs(rng) -> None:
    r = recipe(schedule="one_cycle")
    model = torch.nn.Linear(1, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    theirs = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=1.0, total_steps=130, cycle_momentum=False)
    for step in range(130):
        assert lr_factor(r, step, 13) == pytest.approx(theirs.get_last_lr()[0], abs=1e-6)
        optimizer.step()
        theirs.step()


def test_step_and_warm_up() -> None:
    r = recipe(schedule="step", milestones=(4, 8), gamma=0.1, warmup_iters=1000, warmup_factor=1e-3)
    assert lr_factor(r, 0, 20) == pytest.approx(1e-3)
    assert lr_factor(r, 10, 20) == pytest.approx(1e-3 + 0.999 * 0.5)
    assert lr_factor(r, 20, 20) == 1, "the warm-up ends with the first epoch"
    assert lr_factor(r, 4 * 20, 20) == pytest.approx(0.1)
    assert lr_factor(r, 9 * 20, 20) == pytest.approx(0.01)


def test_norms_and_biases_are_not_decayed_and_the_backbone_learns_slower() -> None:
    model = torch.nn.ModuleDict(
        {
            "backbone": torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4)),
            "head": torch.nn.Linear(4, 2),
        }
    )
    groups = parameter_groups(model, recipe(weight_decay=0.1, backbone_lr_factor=0.1, lr=1.0))
    got = {(g["weight_decay"], g["lr"]): sum(p.numel() for p in g["params"]) for g in groups}
    assert got == {(0.0, 1.0): 2, (0.0, 0.1): 4 + 8, (0.1, 1.0): 8, (0.1, 0.1): 108}


def test_frozen_parameters_are_not_optimised() -> None:
    model = torch.nn.Linear(2, 2)
    model.bias.requires_grad_(False)
    assert sum(p.numel() for g in build_optimizer(model, RECIPE).param_groups for p in g["params"]) == 4


@pytest.fixture(scope="module")
def dataset(synthetic: PreparedDataset):
    split = load_split("synthetic_small", "synthetic_small-4fold-v2", 0)

    def make(cell: Cell, images: int = 8) -> DetectionDataset:
        return DetectionDataset(
            synthetic,
            split.train[:images],
            transform=train_transform(cell.recipe.augment),
            seed=cell.stream("augment"),
        )

    return make


def fit(cell: Cell, dataset, **options: object) -> tuple[dict[str, torch.Tensor], tuple[EpochPoint, ...]]:
    model = build_cell_model(cell, 6)
    curve = train(model, dataset(cell), cell, device=torch.device("cpu"), **options)
    return model.state_dict(), curve


@pytest.mark.parametrize("model", ["canet", "retinanet"])
def test_the_same_cell_twice_is_the_same_to_the_last_bit(dataset, model: str) -> None:
    cell = make_cell(model=model)
    (one, first), (two, second) = fit(cell, dataset), fit(cell, dataset)
    assert [p.losses for p in first] == [p.losses for p in second]
    assert all(torch.equal(one[k], two[k]) for k in one)


def test_processes_that_read_images_change_nothing(dataset) -> None:
    several = RECIPE.model_copy(update={"augment": ("mosaic", "copy_paste", "scale_jitter", "flips")})
    cell = make_cell(model="retinanet", recipe=several)
    (one, first), (two, second) = fit(cell, dataset), fit(cell, dataset, loaders=2)
    assert [p.losses for p in first] == [p.losses for p in second]
    assert all(torch.equal(one[k], two[k]) for k in one)


def test_another_seed_is_another_result(dataset) -> None:
    (_, first), (_, second) = fit(make_cell(), dataset), fit(make_cell(seed=1), dataset)
    assert first[0].losses != second[0].losses


class Killed(Exception):
    pass


def _interrupted(model: str, optimizer: str = "adamw", die_in: int = 1):
    extra, missing = models.get(model).extra, models.missing_extra(model)
    marks = [] if model == "canet" and optimizer == "adamw" else [pytest.mark.slow]
    marks += [pytest.mark.skipif(missing is not None, reason=missing or "")]
    if extra:
        marks.append(getattr(pytest.mark, extra))
    return pytest.param(model, optimizer, die_in, marks=marks, id=f"{model}-{optimizer}-{die_in}")


@pytest.mark.parametrize(
    ("model", "optimizer", "die_in"),
    [
        _interrupted("canet"),
        _interrupted("canet", "sgd", 2),
        # Libraries with a state of their own: weights of two heads, denoising queries, a global message hub.
        *(_interrupted(name) for name in ("yolo26n", "dfine", "yolox", "deformable_detr", "htc")),
    ],
)
def test_interrupted_training_goes_on_to_the_same_bits(
    dataset, tmp_path: Path, monkeypatch, model: str, optimizer: str, die_in: int
) -> None:
    recipe = RECIPE.model_copy(update={"epochs": 3, "optimizer": optimizer})
    cell = make_cell(model=model, scale=models.get(model).scale("nano"), recipe=recipe)
    unbroken, broken = training.Beginning(), training.Beginning()
    whole, curve = fit(cell, dataset, beginning=unbroken)
    path = tmp_path / "c.safetensors"
    seeding = training.seed_everything

    def dying(seed: int) -> None:
        if seed == cell.stream("sampling") + die_in:
            raise Killed
        seeding(seed)

    monkeypatch.setattr(training, "seed_everything", dying)
    with pytest.raises(Killed):
        fit(cell, dataset, checkpoint=path, tag="t")
    monkeypatch.undo()
    assert path.exists()
    resumed, again = fit(cell, dataset, checkpoint=path, tag="t", beginning=broken)
    assert [p.losses for p in again] == [p.losses for p in curve]
    assert broken.summary() == unbroken.summary() is not None
    assert all(torch.equal(whole[k], resumed[k]) for k in whole)


def test_what_is_kept_of_the_first_steps() -> None:
    """The first 20 losses by term, digests after 1, 10 and 100 iterations, and nothing of those that follow."""
    begun = [training.Beginning() for _ in range(3)]
    steps = [{"a": 1 / (i + 1), "b": float(i)} for i in range(120)]
    for i, step in enumerate(steps):
        begun[0].add(i, step)
        begun[1].add(i, step if i != 50 else {**step, "b": 50.0000001})
        if i < 15:
            begun[2].add(i, step)
    whole, changed, short = (b.summary() for b in begun)
    assert whole.losses == {term: tuple(step[term] for step in steps[:20]) for term in ("a", "b")}
    assert list(whole.digests) == [1, 10, 100]
    assert changed.losses == whole.losses
    assert {n for n in (1, 10, 100) if changed.digests[n] != whole.digests[n]} == {100}
    assert short.digests == {n: whole.digests[n] for n in (1, 10)}
    assert len(short.losses["a"]) == 15
    assert training.Beginning().summary() is None


def test_a_training_that_went_on_from_a_file_without_them_has_no_first_steps(dataset, saved, tmp_path: Path) -> None:
    """Files that an earlier version of this loop wrote are gone on from."""
    _, content = saved
    path = tmp_path / "c.safetensors"
    path.write_bytes(rewritten(content, path, beginning="null", sealed=True))
    beginning = training.Beginning()
    _, curve = fit(make_cell(), dataset, checkpoint=path, tag="t", beginning=beginning)
    assert len(curve) == 2
    assert beginning.summary() is None


@pytest.fixture(scope="module")
def saved(dataset, tmp_path_factory):
    """A whole training's weights, and what a resume file of it holds after its first epoch."""
    path = tmp_path_factory.mktemp("resume") / "c.safetensors"
    whole, _ = fit(make_cell(), dataset, checkpoint=path, tag="t")
    return whole, path.read_bytes()


def rewritten(content: bytes, path: Path, *, drop: str = "", sealed: bool = False, **header: str) -> bytes:
    """A resume file with another header, without a tensor; sealed anew, as a bug of ours would have it, or not."""
    path.write_bytes(content)
    with safe_open(str(path), framework="pt") as f:
        new = {**f.metadata(), **header}
    tensors = load(content)
    if drop:
        del tensors[max(k for k in tensors if k.startswith(drop))]
    if sealed:
        del new["seal"]
        new["seal"] = training._seal(new, tensors)
    return save(tensors, metadata=new)


def made_otherwise(content: bytes, path: Path, **changed: str) -> bytes:
    made_by = {**training.computed_with(), "source": training._source(), **changed}
    return rewritten(content, path, made_by=json.dumps(made_by), sealed=True)


DAMAGES = {
    "truncated": (lambda content, path: content[:1000], "not resuming"),
    "empty": (lambda content, path: b"", "not resuming"),
    "another version": (lambda content, path: rewritten(content, path, tag="u", sealed=True), "another version"),
    "without a tensor": (lambda content, path: rewritten(content, path, drop="model/"), "not as it was written"),
    "a later epoch": (lambda content, path: rewritten(content, path, epoch="5"), "not as it was written"),
    "a damaged curve": (lambda content, path: rewritten(content, path, curve="[{"), "not as it was written"),
    "sealed without a weight": (lambda c, path: rewritten(c, path, drop="model/", sealed=True), "does not fit"),
    "sealed without a state": (lambda c, path: rewritten(c, path, drop="optimizer/", sealed=True), "does not fit"),
    "sealed with a later epoch": (lambda c, path: rewritten(c, path, epoch="5", sealed=True), "epoch 5 of 2"),
    "sealed with a damaged curve": (lambda c, path: rewritten(c, path, curve="[{", sealed=True), "not resuming"),
    "of other arithmetic": (
        lambda c, path: made_otherwise(c, path, arithmetic="portable"),
        "arithmetic portable, not nat",
    ),
    "of more threads": (lambda c, path: made_otherwise(c, path, threads="7"), "threads 7, not"),
    "of another torch": (lambda c, path: made_otherwise(c, path, torch="2.0"), "torch 2.0, not"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_resume_file_that_does_not_fit_is_left_out_whole(dataset, saved, tmp_path: Path, damage: str) -> None:
    whole, content = saved
    change, message = DAMAGES[damage]
    path = tmp_path / "c.safetensors"
    path.write_bytes(change(content, path))
    cell = make_cell()
    model = build_cell_model(cell, 6)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    optimizer = build_optimizer(model, cell.recipe)
    lines: list[str] = []
    progress = CellProgress(lambda event: lines.append(str(event)))
    scaler = torch.amp.GradScaler("cpu", enabled=False)
    beginning = training.Beginning()
    assert training._restore(path, "t", 2, model, optimizer, scaler, beginning, progress) == (0, [])
    assert beginning.steps == []
    assert len(lines) == 1
    assert message in lines[0]
    assert "training starts anew" in lines[0]
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items()), "nothing was touched"
    assert not optimizer.state
    if damage == "sealed without a weight":  # once to the end: the same bits as from nothing
        resumed, curve = fit(cell, dataset, checkpoint=path, tag="t")
        assert len(curve) == 2
        assert all(torch.equal(whole[k], resumed[k]) for k in whole)


@pytest.mark.parametrize("source", ["another", None])
def test_a_training_that_other_source_began_goes_on_and_says_so(dataset, saved, tmp_path: Path, source) -> None:
    """Its record is then not published: nobody knows what its first epochs were made with."""
    whole, content = saved
    path = tmp_path / "c.safetensors"
    path.write_bytes(content)
    beginning = training.Beginning()
    fit(make_cell(), dataset, checkpoint=path, tag="t", beginning=beginning)
    assert not beginning.other_source
    path.write_bytes(made_otherwise(content, path, source=source))
    lines: list[str] = []
    progress = CellProgress(lambda event: lines.append(str(event)))
    beginning = training.Beginning()
    resumed, _ = fit(make_cell(), dataset, checkpoint=path, tag="t", beginning=beginning, progress=progress)
    assert beginning.other_source
    assert any("other source files" in line for line in lines)
    assert all(torch.equal(whole[k], resumed[k]) for k in whole)


@pytest.mark.parametrize("clip", [None, 1.0])
def test_a_gradient_that_is_not_finite_ends_the_training_before_the_step(dataset, clip: float | None) -> None:
    cell = make_cell(recipe=RECIPE.model_copy(update={"clip_norm": clip}))
    model = build_cell_model(cell, 6)
    calls = iter(range(100))
    name, weight = next((n, p) for n, p in model.named_parameters() if n.endswith("cls_score.weight"))
    weight.register_hook(lambda grad: grad * math.nan if next(calls) == 3 else grad)  # in the last iteration
    with pytest.raises(Diverged, match=rf"gradient not finite in epoch 2, iteration 2 of 2 \({name}\)"):
        train(model, dataset(cell), cell, device=torch.device("cpu"))
    assert all(bool(p.isfinite().all()) for p in model.parameters())


@pytest.mark.parametrize(("batch", "told"), [(4, True), (8, False)])
def test_live_batch_norm_over_few_images_is_told(dataset, batch: int, told: bool) -> None:
    cell = make_cell(recipe=recipe(epochs=1, batch_size=batch))
    lines: list[str] = []
    data = dataset(cell)
    assert len(data) >= 8
    train(
        build_cell_model(cell, 6),
        data,
        cell,
        device=torch.device("cpu"),
        progress=CellProgress(lambda event: lines.append(str(event))),
    )
    assert any("batch norm takes its statistics from 4 images" in line for line in lines) == told


class Unscalable(Detector):
    """A finite loss whose gradient is NaN at every scale."""

    def __init__(self) -> None:
        super().__init__(ResizeNormalizePad(64, 32))
        self.w = torch.nn.Parameter(torch.zeros(1))

    def network(self, batch: Batch) -> dict[str, torch.Tensor]:
        return {"loss": (self.w * 0).sum().sqrt() + 1}


def test_a_training_in_float16_of_which_no_step_is_taken_has_diverged(dataset) -> None:
    """Its scaler leaves out each step and says nothing."""
    few, many = (make_cell(recipe=recipe(epochs=epochs, precision="fp16")) for epochs in (2, 20))
    with pytest.raises(Diverged, match=r"no step of the last epoch was taken.*float16.*lower the recipe's lr"):
        train(Unscalable(), dataset(few), few, device=torch.device("cpu"))
    with pytest.raises(Diverged, match="not finite in float16 at any scale"):
        train(Unscalable(), dataset(many), many, device=torch.device("cpu"))


def test_a_loss_that_is_not_finite_names_the_moment_and_the_remedy(dataset) -> None:
    cell = make_cell()
    model = build_cell_model(cell, 6)
    with torch.no_grad():
        next(p for n, p in model.named_parameters() if n.endswith("cls_score.weight")).fill_(math.nan)
    with pytest.raises(Diverged, match=r"epoch 1, iteration 1 of 2 .*loss_classifier=nan.*lower the recipe's lr"):
        train(model, dataset(cell), cell, device=torch.device("cpu"))


@pytest.mark.slow
def test_bfloat16_trains(dataset) -> None:
    cell = make_cell(recipe=RECIPE.model_copy(update={"precision": "bf16"}))
    _, curve = fit(cell, dataset)
    assert all(math.isfinite(v) for p in curve for v in p.losses.values())


def test_a_model_with_a_schedule_of_its_own_is_told_epoch_and_epochs(dataset) -> None:
    cell = make_cell()
    told: list[tuple[int, int]] = []
    model = build_cell_model(cell, 6)
    model.on_epoch = lambda epoch, epochs: told.append((epoch, epochs))
    train(model, dataset(cell), cell, device=torch.device("cpu"))
    assert told == [(0, 2), (1, 2)]


def test_what_a_part_has_become_stands_in_the_curve(dataset) -> None:
    state, curve = fit(make_cell(), dataset)
    learned = {k: float(v) for k, v in state.items() if k.rpartition(".")[2] in ("gamma", "alpha", "beta")}
    assert len(learned) > 6
    assert curve[-1].scalars == learned
    assert curve[0].scalars != curve[1].scalars, "after each epoch"
    plain = curve[-1].model_copy(update={"scalars": {}})
    assert "scalars" not in plain.model_dump(), "a model that has none leaves records as they were"


@pytest.mark.yolo
@pytest.mark.skipif(missing_extra("yolo26n") is not None, reason="ultralytics is not installed")
def test_the_two_heads_of_yolo26_end_where_the_librarys_schedule_ends(dataset) -> None:
    cell = make_cell(model="yolo26n", scale="n")
    model = build_cell_model(cell, 6)
    train(model, dataset(cell), cell, device=torch.device("cpu"))
    assert model._criterion[1].o2m == pytest.approx(0.1)
