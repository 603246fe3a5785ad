"""Numbers may change only together with a version: otherwise old and new records would look alike.

Every model is trained for two steps and its losses are compared with those in versions.json. When a change is meant,
raise the version that moved (the builder's in benchmarks/models.py, RECIPE_VERSION, TRANSFORMS_VERSION,
DETECTION_VERSION or EVALUATOR_VERSION) and write the file again: python -m tests.benchmarks.test_versions [MODEL ...]
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from benchmarks import models
from benchmarks.cells import RECIPE_VERSION
from tests.baselines.test_contract import SLOW
from tests.benchmarks.conftest import RECIPE, make_cell

FILE = Path(__file__).with_name("versions.json")
RELATIVE = 2e-3  # two steps on another CPU differ by far less, a changed initialisation by far more
# But for deep networks after a step: AdamW's first one is the sign of a gradient, and where rounding decides that, the
# weight moves the other way (0.4% of the loss of ResNeXt, 0.2% of Res2Net's, between two CPUs; 0.2% of YOLOv10n's under
# MKL_CBWR=COMPATIBLE).
RELATIVE_AFTER_A_STEP = {"mmdet": 1e-2, "yolo": 1e-2}


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
    changed = "the numbers changed and no version did; raise the one that moved"
    (before, after), (known_before, known_after) = losses(name, synthetic), known[name]["losses"]
    assert before == pytest.approx(known_before, rel=RELATIVE), changed
    later = RELATIVE_AFTER_A_STEP.get(models.get(name).extra or "", RELATIVE)
    assert after == pytest.approx(known_after, rel=later), changed


def _summary(boxes, scores, labels) -> dict[str, float]:
    """Of one image's detections."""
    import torch
    from torchvision.ops import box_iou

    boxes, scores, labels = map(torch.as_tensor, (boxes, scores, labels))
    beside = (box_iou(boxes, boxes) * (labels[:, None] == labels)).fill_diagonal_(0).amax(1)
    return {
        "count": len(boxes),
        "score": float(scores.double().mean()),
        "width": float((boxes[:, 2] - boxes[:, 0]).double().mean()),
        "IoU_with_nearest_of_class": float(beside.double().mean()),
    }


def merged_tiles() -> dict[str, float]:
    """Random boxes as the tiles of an image would show them, merged."""
    import numpy as np
    import torch

    from benchmarks.datasets.tiling import merge, tiles

    rng = np.random.default_rng(0)
    corner, side = rng.uniform(0, 280, (200, 2)), rng.uniform(8, 60, (200, 2))
    boxes = torch.as_tensor(np.concatenate([corner, (corner + side).clip(max=300)], 1), dtype=torch.float32)
    labels = torch.as_tensor(rng.integers(1, 4, 200))
    windows = tiles(300, 300, 128, 32)
    per_tile = []
    for x, y, w, h in windows:
        seen = (boxes - torch.tensor([x, y, x, y])).clamp(torch.zeros(4), torch.tensor([w, h, w, h]).float())
        seen = seen + torch.as_tensor(rng.normal(0, 0.5, seen.shape), dtype=torch.float32)
        whole = ((seen[:, 2:] - seen[:, :2]) > 4).all(1)
        scores = torch.as_tensor(rng.uniform(0.1, 1, len(boxes)), dtype=torch.float32)
        per_tile.append({"boxes": seen[whole], "scores": scores[whole], "labels": labels[whole]})
    merged = merge(per_tile, windows, (300, 300), 100)
    return _summary(merged["boxes"], merged["scores"], merged["labels"])


def detection(synthetic) -> dict:
    """Detection's version, what untrained models find in an image, and what is left of a grid of tiles.

    Numbers that hold on every CPU: means over the detections kept, which move far when a threshold of
    non-maximum suppression, a limit or the merging does.
    """
    import torch

    from benchmarks import trained
    from benchmarks.datasets.splits import load_split

    found: dict = {}
    for name in ("canet", "retinanet", "fcos"):
        cell = make_cell(model=name)
        files = load_split(cell.dataset, cell.split, 0).test[:1]
        got = trained.detect(trained.build_cell_model(cell, 6), synthetic, files, torch.device("cpu"))
        found[name] = {"builder": models.get(name).version, **_summary(got.boxes, got.scores, got.labels)}
    found["tiles merged"] = merged_tiles()
    return {"version": trained.DETECTION_VERSION, "found": found}


def test_detections_change_only_with_a_version(synthetic) -> None:
    known, now = json.loads(FILE.read_text())["detection"], detection(synthetic)
    assert known["version"] == now["version"], f"a version was raised: write {FILE.name} again"
    for name, values in known["found"].items():
        assert now["found"][name] == pytest.approx(values, rel=RELATIVE), (
            f"{name} finds something else and no version was raised: DETECTION_VERSION for what all models share, the "
            "builder's for one model's own post-processing"
        )


def test_the_pinned_detections_tell_another_threshold(monkeypatch) -> None:
    """The pins are worth something: with tiles merged at another agreement they differ by more than the tolerance."""
    from benchmarks.datasets import tiling

    known = json.loads(FILE.read_text())["detection"]["found"]["tiles merged"]
    monkeypatch.setattr(tiling, "AGREEMENT", 0.6)
    assert merged_tiles() != pytest.approx(known, rel=RELATIVE)


def evaluator() -> dict:
    """The evaluator's version, and one number of each of its parts."""
    import numpy as np

    from benchmarks.metrics import EVALUATOR_VERSION
    from benchmarks.metrics import evaluator as metrics
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
    return {"version": EVALUATOR_VERSION, "values": values}


def test_the_evaluator_changes_only_with_its_version() -> None:
    known, now = json.loads(FILE.read_text())["evaluator"], evaluator()
    assert known["version"] == now["version"]
    assert now["values"] == pytest.approx(known["values"], abs=1e-6)


def write(names: Sequence[str] = ()) -> None:
    """Write versions.json from what the code computes now: the models called, or all whose library is here."""
    import tempfile

    from benchmarks.datasets.prepared import ensure

    with tempfile.TemporaryDirectory() as folder:
        synthetic = ensure("synthetic_small", Path(folder))
        known = json.loads(FILE.read_text())
        chosen = names or [n for n in models.MODELS if models.missing_extra(n) is None]
        new = {n: {"versions": versions(n), "losses": losses(n, synthetic)} for n in chosen}
        out: dict = {n: new[n] if n in new else known[n] for n in models.MODELS if n in new or n in known}
        out["detection"] = detection(synthetic)
    out["evaluator"] = evaluator()
    FILE.write_text(json.dumps(out, indent=1) + "\n")


if __name__ == "__main__":
    write(sys.argv[1:])
