"""Numbers may change only together with a version: otherwise old and new records would look alike.

Every model is trained for two steps and its losses are compared with those in versions.json. When a change is meant,
raise the version that moved (the builder's in benchmarks/models.py, RECIPE_VERSION, TRANSFORMS_VERSION
or EVALUATOR_VERSION) and write the file again: python -m tests.benchmarks.test_versions
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import models
from benchmarks.cells import RECIPE_VERSION
from tests.baselines.test_contract import SLOW
from tests.benchmarks.conftest import RECIPE, make_cell

FILE = Path(__file__).with_name("versions.json")
RELATIVE = 2e-3  # two steps on another CPU differ by far less, a changed initialisation by far more


def losses(name: str, synthetic) -> list[float]:
    """Summed loss of each of two iterations, augmentation included."""
    import torch

    from benchmarks.datasets.loading import DetectionDataset, train_transform
    from benchmarks.datasets.splits import load_split
    from benchmarks.runner import build_cell_model
    from benchmarks.train import train

    recipe = RECIPE.model_copy(update={"batch_size": 2, "epochs": 1})
    cell = make_cell(model=name, scale=models.get(name).scale("nano"), recipe=recipe)
    out = []
    for images in (2, 4):
        files = load_split(cell.dataset, cell.split, 0).train[:images]
        data = DetectionDataset(synthetic, files, transform=train_transform("flips"), seed=cell.stream("augment"))
        (point,) = train(build_cell_model(cell, 6), data, cell, device=torch.device("cpu"))
        out.append(sum(point.losses.values()))
    return out


def versions(name: str) -> dict[str, int]:
    from benchmarks.datasets.loading import TRANSFORMS_VERSION

    return {"builder": models.get(name).version, "recipe": RECIPE_VERSION, "transforms": TRANSFORMS_VERSION}


def _param(name: str):
    """Models of an extra are pinned where its tests run."""
    marks = [pytest.mark.slow] if name in SLOW else []
    if extra := models.get(name).extra:
        marks.append(getattr(pytest.mark, extra))
    return pytest.param(name, marks=marks)


@pytest.mark.parametrize("name", [_param(name) for name in models.MODELS])
def test_numbers_change_only_with_a_version(name: str, synthetic) -> None:
    if (message := models.missing_extra(name)) is not None:
        pytest.skip(message)
    known = json.loads(FILE.read_text())
    assert name in known, f"new model: write {FILE.name} again"
    assert known[name]["versions"] == versions(name), f"a version was raised: write {FILE.name} again"
    assert losses(name, synthetic) == pytest.approx(known[name]["losses"], rel=RELATIVE), (
        "the numbers changed and no version did; raise the one that moved"
    )


def evaluator() -> dict:
    """The evaluator's version, and one number of each of its parts."""
    import numpy as np

    from benchmarks import metrics
    from tests.benchmarks.test_metrics import CLASSES, scene

    truth, found = scene(np.random.default_rng(0), 30)
    got = metrics.evaluate(truth, found, CLASSES, validation=(truth, found))
    seen = got.inspection
    values = {
        "AP": got.AP,
        "AP50": got.AP50,
        "AP50_low": got.AP50_interval[0],
        "AP50_high": got.AP50_interval[1],
        "VOC07_AP50": got.VOC07_AP50,
        "VOC07_AP50_plus1": got.VOC07_AP50_plus1,
        "VOC12_AP50": got.VOC12_AP50,
        "DeepPCB_AP": got.DeepPCB_AP,
        "DeepPCB_F": got.DeepPCB_F,
        "below_16": got.sizes["below 16 x 16 px"].AP50,
        "FROC_1": seen.FROC["1"],
        "F1": seen.operating_point.F1,
        "escape": seen.operating_point.escape,
        "AUROC": seen.image_level.AUROC,
        "ECE": seen.calibration.ECE,
        "confusion_background": seen.confusion.matrix[-1][0],
        **{kind: share.dAP50 for kind, share in seen.errors.items()},
    }
    return {"version": metrics.EVALUATOR_VERSION, "values": values}


def test_the_evaluator_changes_only_with_its_version() -> None:
    known, now = json.loads(FILE.read_text())["evaluator"], evaluator()
    assert known["version"] == now["version"]
    assert now["values"] == pytest.approx(known["values"], abs=1e-6)


def write() -> None:
    """Write versions.json from what the code computes now."""
    import tempfile

    from benchmarks.datasets.prepared import ensure

    with tempfile.TemporaryDirectory() as folder:
        synthetic = ensure("synthetic_small", Path(folder))
        out: dict = {n: {"versions": versions(n), "losses": losses(n, synthetic)} for n in models.MODELS}
    out["evaluator"] = evaluator()
    FILE.write_text(json.dumps(out, indent=1) + "\n")


if __name__ == "__main__":
    write()
