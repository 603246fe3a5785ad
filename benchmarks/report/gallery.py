"""The same test images under each model: which detections are true, which false, which boxes are missed. Torch-free.

Matches are the evaluator's, COCO's at IoU 0.5. They are made once, from the best score down, and stay what they are
when a threshold leaves out the rest: whether a detection is true depends on better ones alone.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.datasets.prepared import PreparedDataset, ensure
from benchmarks.datasets.splits import Split, load_split
from benchmarks.detections import Detections
from benchmarks.errors import DataError, RequestError
from benchmarks.metrics import MAX_DETECTIONS
from benchmarks.metrics.coco import SMALL
from benchmarks.metrics.scene import NONE, Bools, Floats, Found, Ints, Scene, match_all, overlaps
from benchmarks.metrics.tide import BACKGROUND
from benchmarks.report.rows import Row
from benchmarks.store import RunRecord, Stored, read_named

MOST_IMAGES = 120
"""Images of one gallery; those that say most are kept."""
MOST_MODELS = 12
LEAST_SCORE = 0.05
"""Detections below it are not shown, but where a model's own threshold is as low."""
MOST_SUSPECTS = 40
"""Of each kind."""
SCORE_STEPS = 65535
"""As saved detections have them, so that a threshold lets through what it does in evaluation."""
_SIDE = 320
"""Longer side of an embedded image in pixels."""


@dataclass(frozen=True)
class Seen:
    """One training and what it found in the images of its fold.

    threshold: its own, of its operating point as its record has it; without one that of the best F1 on these images, or
    0.5. chosen_on: "validation", "test" or "nothing".
    """

    row: int
    stored: Stored
    scene: Scene
    found: Found
    threshold: float
    chosen_on: str

    @property
    def reported(self) -> Bools:
        """Which detections its own threshold lets through, ignored ones left out, (N,)."""
        return (self.scene.dt_scores >= self.threshold) & ~self.found.ignored

    @property
    def hit(self) -> Bools:
        """Which boxes it finds at its own threshold, (G,)."""
        hit = np.zeros(len(self.scene.gt_image), dtype=bool)
        hit[self.found.gt[self.reported & self.found.true]] = True
        return hit


def gallery(
    section: Sequence[Row], known: Mapping[str, Stored], data_root: Path | None, *, with_images: bool = False
) -> dict[str, Any]:
    """What the page shows of one table, as JSON content; `{"absent": why}` where there is nothing to show.

    One training of each row, all on the fold that most rows were trained on. Boxes are x y w h in pixels, scores in
    steps of which `SCORE_STEPS` are 1, classes counted from 0.

    Args:
        known: records by cell id.
        with_images: embed the images, small; else only boxes are shown.

    Raises:
        DataError: detections are not those of their record.
    """
    chosen = _one_fold(section, known)
    if not chosen:
        return {"absent": "No detections lie beside these records."}
    first = chosen[0][1].run
    if isinstance(known_set := tested_on(first, data_root), str):
        return {"absent": known_set}
    data, split = known_set
    truth = data.coco(split.test)
    images = sorted(truth["images"], key=lambda image: int(image["id"]))
    shown = [_see(i, stored, truth, data) for i, stored in chosen[:MOST_MODELS]]
    suspects = {"unboxed": _unboxed(shown), "missed_by_all": _missed_by_all(shown)}
    picked = _most_telling(shown, [int(entry["image"]) for kind in suspects.values() for entry in kind])
    at = {image: i for i, image in enumerate(picked)}
    for kind in suspects.values():
        kind[:] = [{**entry, "image": at[entry["image"]]} for entry in kind if entry["image"] in at]
    return {
        "fold": first.cell.fold,
        "steps": SCORE_STEPS,
        "classes": list(data.classes),
        "of_images": len(images),
        "of_models": len(section),
        "models": [
            {
                "row": one.row,
                "seed": one.stored.run.cell.seed,
                "threshold": _steps(one.threshold),
                "chosen_on": one.chosen_on,
                "least": _steps(_least_score(one)),
            }
            for one in shown
        ],
        "images": [_image(shown, i, images[i], data, with_images) for i in picked],
        "suspects": suspects,
    }


def tested_on(record: RunRecord, data_root: Path | None) -> tuple[PreparedDataset, Split] | str:
    """The prepared set that a record was made from and its fold; or a sentence that says why they are not here."""
    cell = record.cell
    try:
        data = ensure(cell.dataset, data_root)
    except RequestError:  # no path of this machine goes into a page that is passed on
        command = f"python -m benchmarks.datasets prepare {cell.dataset}"
        return (
            f"Ground truth is needed to tell true from false, and {cell.dataset} is not prepared here "
            f"({command}; --data-root names another folder)."
        )
    except DataError:
        return f"The {cell.dataset} that is prepared here is damaged; prepare it again with --force."
    if data.manifest_digest != record.fingerprint.data:
        return f"The {data.name} that is prepared here is not the one that these records were made from."
    try:
        split = load_split(cell.dataset, cell.split, cell.fold, data_root)
    except RequestError:
        return f"Which images were tested is not known here: the split list {cell.split} is missing, or its fold."
    except DataError:
        return f"The split list {cell.split} that lies here is damaged."
    if split.digest != record.fingerprint.split:
        return f"The split list {cell.split} that lies here is not the one that these records were made from."
    return data, split


def has_detections(stored: Stored) -> bool:
    """Whether the detections that a record names lie beside it."""
    return stored.run.detections_sha256 is not None and stored.paths.detections.exists()


def _one_fold(section: Sequence[Row], known: Mapping[str, Stored]) -> list[tuple[int, Stored]]:
    """Of each row the training with the lowest seed, on the fold that most rows have detections of."""
    having: list[tuple[int, Stored]] = []
    for i, row in enumerate(section):
        stored = [known[cell] for cell in row.cell_ids if cell in known]
        having += [(i, s) for s in stored if has_detections(s)]
    rows_of = {fold: {i for i, s in having if s.run.cell.fold == fold} for fold in {s.run.cell.fold for _, s in having}}
    if not rows_of:
        return []
    best = max(rows_of, key=lambda fold: (len(rows_of[fold]), -fold))
    first: dict[int, Stored] = {}
    for i, s in having:
        if s.run.cell.fold == best and (i not in first or s.run.cell.seed < first[i].run.cell.seed):
            first[i] = s
    return sorted(first.items())


def _see(row: int, stored: Stored, truth: Mapping[str, Any], data: PreparedDataset) -> Seen:
    path, run = stored.paths.detections, stored.run
    detections = Detections.loads(read_named(path, run.detections_sha256), str(path))
    scene = Scene.of(truth, detections, data.classes, per_image=MAX_DETECTIONS)
    inspection = run.metrics.inspection if run.metrics is not None else None
    point = None if inspection is None else inspection.operating_point or inspection.best_F1
    threshold, chosen_on = (0.5, "nothing") if point is None else (point.threshold, point.chosen_on)
    return Seen(row, stored, scene, match_all(scene, 0.5), threshold, chosen_on)


def _least_score(one: Seen) -> float:
    return min(LEAST_SCORE, one.threshold / 2)


def _unboxed(shown: Sequence[Seen]) -> list[dict[str, Any]]:
    """Where models report something, at their own thresholds, and there is no box: those that most models see first.

    Places of one class that overlap by an IoU of 0.5 or more are one place.
    """
    found: list[tuple[int, int, Floats, float, int]] = []  # image, class, box, score, model
    for m, one in enumerate(shown):
        near, _ = one.scene.pairs.best(len(one.scene.dt_image))
        alone = one.reported & ~one.found.true & (near <= BACKGROUND)
        for d in np.flatnonzero(alone).tolist():
            scene = one.scene
            box, score = scene.dt_boxes[d], float(scene.dt_scores[d])
            found.append((int(scene.dt_image[d]), int(scene.dt_class[d]), box, score, m))
    places: dict[tuple[int, int], list[dict[str, Any]]] = {}
    for image, k, box, score, m in sorted(found, key=lambda f: (-f[3], f[4], f[0])):
        here = places.setdefault((image, k), [])
        for place in here:
            if overlaps(place["at"][None], box[None])[0] >= 0.5:
                place["by"].setdefault(m, score)
                break
        else:
            here.append({"image": image, "class": k, "at": box, "by": {m: score}})
    flat = [place for here in places.values() for place in here]
    # A single model that is sure says less than two that agree.
    flat.sort(key=lambda p: (-len(p["by"]), -sum(p["by"].values()), p["image"]))
    return [
        {
            "image": p["image"],
            "class": p["class"],
            "box": _rounded(p["at"]),
            "models": sorted(p["by"]),
            "score": _steps(max(p["by"].values())),
        }
        for p in flat[:MOST_SUSPECTS]
    ]


def _missed_by_all(shown: Sequence[Seen]) -> list[dict[str, Any]]:
    """Boxes that no model finds at its own threshold; first those that none finds at any score, then the largest."""
    scene = shown[0].scene
    missed = ~scene.gt_ignored
    best = np.zeros(len(scene.gt_image))
    for one in shown:
        missed &= ~one.hit
        true = one.found.true
        np.maximum.at(best, one.found.gt[true], one.scene.dt_scores[true])
    order = sorted(np.flatnonzero(missed).tolist(), key=lambda g: (best[g], -scene.gt_area[g], g))
    return [
        {
            "image": int(scene.gt_image[g]),
            "class": int(scene.gt_class[g]),
            "box": _rounded(scene.gt_boxes[g]),
            "models": [],
            "score": _steps(best[g]),
        }
        for g in order[:MOST_SUSPECTS]
    ]


def _most_telling(shown: Sequence[Seen], wanted: Sequence[int]) -> list[int]:
    """Images to show, in their order: those of suspects, then in turns the first of each way to sort them."""
    scene = shown[0].scene
    n = scene.images
    if n <= MOST_IMAGES:
        return list(range(n))
    small = (scene.gt_area <= SMALL) & ~scene.gt_ignored
    missed, alarms = np.zeros(n), np.zeros(n)
    hits, false = [], []
    for one in shown:
        missed += np.bincount(scene.gt_image[small & ~one.hit], minlength=n)
        wrong = np.bincount(one.scene.dt_image[one.reported & ~one.found.true], minlength=n).astype(float)
        alarms += np.where(scene.good, wrong, 0.0)
        hits.append(one.hit)
        false.append(wrong)
    apart = np.zeros(n)
    for a in range(len(shown)):
        for b in range(a):
            told = np.bincount(scene.gt_image[hits[a] != hits[b]], minlength=n) + np.abs(false[a] - false[b])
            apart = np.maximum(apart, told)
    ways: list[list[int]] = [np.argsort(-score, kind="stable").tolist() for score in (missed, alarms, apart)]
    picked = dict.fromkeys(wanted[:MOST_IMAGES])
    for rank in range(n):
        for way in ways:
            if len(picked) < MOST_IMAGES:
                picked.setdefault(way[rank])
    return sorted(picked)


def _image(
    shown: Sequence[Seen], i: int, entry: Mapping[str, Any], data: PreparedDataset, with_images: bool
) -> dict[str, Any]:
    scene = shown[0].scene
    boxes = np.flatnonzero(scene.gt_image == i)
    local = {int(g): j for j, g in enumerate(boxes)}
    out: dict[str, Any] = {
        "name": entry["file_name"],
        "size": [entry["width"], entry["height"]],
        "boxes": [
            [*_rounded(scene.gt_boxes[g]), int(scene.gt_class[g]), *_area(scene, g, bool(ignored))]
            for g, ignored in zip(boxes, scene.gt_ignored[boxes], strict=True)
        ],
        "found": [_found(one, i, local) for one in shown],
    }
    if with_images:
        out["picture"] = _picture(data.path(entry["file_name"]))
    return out


def _found(one: Seen, i: int, local: Mapping[int, int]) -> list[list[float]]:
    """x y w h, score, class, state (0 false, 1 true, 2 ignored) and box or `NONE` of each detection, best first."""
    scene, found = one.scene, one.found
    rows: Ints = np.flatnonzero((scene.dt_image == i) & (scene.dt_scores >= _least_score(one)))
    states = np.where(found.ignored[rows], 2, found.true[rows].astype(int))
    out = []
    for d, state in zip(rows.tolist(), states.tolist(), strict=True):
        gt = local.get(int(found.gt[d]), NONE)
        out.append([*_rounded(scene.dt_boxes[d]), _steps(scene.dt_scores[d]), int(scene.dt_class[d]), state, gt])
    return out


def _rounded(box: Floats) -> list[float]:
    """To half a pixel, without a point where it can be."""
    return [_short(v) for v in (np.rint(box * 2) / 2).tolist()]


def _area(scene: Scene, g: int, ignored: bool) -> list[float]:
    """The area as given, whether the box is ignored and, where the area is a mask's, that of the box."""
    given, whole = float(scene.gt_area[g]), float(scene.gt_boxes[g, 2] * scene.gt_boxes[g, 3])
    return [_short(given), int(ignored), *([] if given == whole else [_short(whole)])]


def _short(value: float) -> float:
    return int(value) if value == int(value) else value


def _steps(score: float) -> int:
    return round(SCORE_STEPS * score)


def _picture(path: Path) -> str:
    """A data URI of the image, small."""
    from PIL import Image

    with Image.open(path) as image:
        small = image.convert("RGB")
        small.thumbnail((_SIDE, _SIDE))
        buffer = io.BytesIO()
        small.save(buffer, format="WEBP", quality=70)
    return "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode()
