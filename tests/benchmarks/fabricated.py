"""Records that nothing was trained for, made by the real store, evaluator and data sets: for what only reads them."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from ablations.effects import RUNS_TWICE
from benchmarks import models
from benchmarks.datasets import own
from benchmarks.datasets.prepared import PreparedDataset
from benchmarks.datasets.splits import Split, load_split
from benchmarks.detections import Detections
from benchmarks.metrics.records import measure
from benchmarks.report.budget import BUDGET
from benchmarks.store import (
    CellPaths,
    EpochPoint,
    Latency,
    Macs,
    ModelFacts,
    ProfileRecord,
    RunRecord,
    read_record,
    write_atomic,
    write_record,
)
from tests.benchmarks.conftest import make_cell, make_record

NAME, SPLIT = "fabricated", "fabricated-tiny-v1"
HOSTILE = ("<script>alert(1)</script>", 'a "quoted" & [bracketed] $x_1$', "right\u202eleft\u2066")
"""Class names that a page, a figure or a terminal could trip over."""
SIDE = 96
CELLS = (
    ("canet", "default"),
    ("canet", "no_sae"),
    ("canet", "fpn_convs"),
    ("fasterrcnn_fpn", "default"),
    ("retinanet", "default"),
    ("fcos", "default"),
    ("yolov8n", "default"),
    ("ssd300", "default"),
)


def data_set(root: Path, test_images: int = 64, classes: Sequence[str] = HOSTILE) -> PreparedDataset:
    """A prepared set of grey noise with dark defects, every fourth image a good part, and a list that tests on most."""
    rng = np.random.default_rng(0)
    source = root / "source"
    (source / "images").mkdir(parents=True)
    images, annotations = [], []
    for i in range(test_images + 24):
        pixels = rng.integers(90, 200, (SIDE, SIDE, 3), dtype=np.uint8)
        name = f"p{i:03d}.png"
        for _ in range(0 if i % 4 == 3 else int(rng.integers(1, 4))):
            w, h = (int(v) for v in rng.integers(6, 40, 2))
            x, y = int(rng.integers(0, SIDE - w)), int(rng.integers(0, SIDE - h))
            pixels[y : y + h, x : x + w] //= 3
            box = dict(id=len(annotations) + 1, image_id=i + 1, category_id=int(rng.integers(len(classes))) + 1)
            annotations.append({**box, "bbox": [x, y, w, h], "area": w * h, "iscrowd": 0})
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, format="PNG")
        (source / "images" / name).write_bytes(buffer.getvalue())
        images.append({"id": i + 1, "file_name": name, "width": SIDE, "height": SIDE})
    categories = [{"id": k, "name": name} for k, name in enumerate(classes, start=1)]
    coco = {"images": images, "annotations": annotations, "categories": categories}
    (source / "annotations.json").write_text(json.dumps(coco))
    data = own.prepare(NAME, root / "data", source, format="coco", groups="none")
    names = [image["file_name"] for image in data.images]
    parts = {"train": names[:8], "val": names[8:24], "test": names[24:]}
    (data.root / "splits").mkdir(exist_ok=True)
    (data.root / "splits" / f"{SPLIT}.json").write_text(json.dumps({"schema": 1, "dataset": NAME, "parts": parts}))
    return data


def results(
    root: Path, data: PreparedDataset, cells: Sequence[tuple[str, str]] = CELLS, seeds: int = 1
) -> Iterator[Path]:
    """Write a record, its detections and its profile for each cell and seed; the records' paths."""
    split = load_split(NAME, SPLIT, 0, data.root.parent)
    for i, (model, variant) in enumerate(cells):
        for seed in range(seeds):
            rng = np.random.default_rng([i, seed])
            skill = 0.9 - 0.08 * i + 0.02 * rng.normal()
            yield write_one(root, data, split, model, variant, seed, skill, rng)


def converged(
    root: Path, data: PreparedDataset, cells: Sequence[tuple[str, str]] = CELLS, seeds: int = 5, step: float = 0.08
) -> None:
    """Write `results` of trainings that hardly differ, and three of each at twice the length, which gain nothing.

    step: by how much each cell finds fewer of the boxes than the one before.
    """
    split = load_split(NAME, SPLIT, 0, data.root.parent)
    for i, (model, variant) in enumerate(cells):
        skills = 0.92 - step * i + 0.01 * np.random.default_rng(i).normal(size=seeds)
        for seed, skill in enumerate(skills):
            path = write_one(root, data, split, model, variant, seed, skill, np.random.default_rng([i, 0]))
            if seed < RUNS_TWICE:
                record = read_record(path, RunRecord)
                recipe = record.cell.recipe.model_copy(update={"epochs": 2 * record.cell.recipe.epochs})
                cell = record.cell.model_copy(update={"recipe": recipe})
                longer = record.model_copy(update={"cell": cell, "cell_id": cell.id})
                write_record(CellPaths.of(root / BUDGET, cell).record, longer)


def write_one(
    root: Path,
    data: PreparedDataset,
    split: Split,
    model: str,
    variant: str,
    seed: int,
    skill: float,
    rng: np.random.Generator,
) -> Path:
    """skill: how many of the boxes are found."""
    cell = make_cell(dataset=NAME, split=split.name, model=model, variant=variant, seed=seed, image_size=SIDE)
    paths = CellPaths.of(root, cell)
    test, val = (detections(data, names, skill, rng) for names in (split.test, split.val))
    saved = [d.dumps() for d in (test, val)]
    for path, content in zip((paths.detections, paths.val_detections), saved, strict=True):
        write_atomic(path, content)
    digests = [hashlib.sha256(content).hexdigest() for content in saved]
    test, val = (Detections.loads(content, "here") for content in saved)
    parameters = 1_500_000 + 400_000 * list(models.MODELS).index(model)
    made = make_record(
        cell,
        metrics=measure(data, split, test, val),
        detections_sha256=digests[0],
        val_detections_sha256=digests[1],
        train_images=len(split.train),
        timings_s={"train": 60.0 + parameters / 1e5},
        curve=tuple(
            EpochPoint(epoch=e, lr=1e-3 / (e + 1), losses={"loss": 2 / (e + 1) + (1 - skill)}, images_per_second=30.0)
            for e in range(6)
        ),
        model=ModelFacts(
            parameters=parameters, trainable=parameters, weights=None, frozen=(), norm="batch", in_evaluation=parameters
        ),
    )
    fingerprint = made.fingerprint.model_copy(update={"data": data.manifest_digest, "split": split.digest})
    record = made.model_copy(update={"fingerprint": fingerprint})
    write_record(paths.record, record)
    write_record(paths.profile, _profile(cell.id, parameters, record.provenance, rng))
    return paths.record


def detections(data: PreparedDataset, names: Sequence[str], skill: float, rng: np.random.Generator) -> Detections:
    """Boxes that are found with the probability `skill`, a little beside their place, and some false ones.

    Every ninth box is found by nobody.
    """
    out = []
    for name in names:
        boxes, scores, labels = [], [], []
        for a in data.boxes(name):
            x, y, w, h = a["bbox"]
            luck, score = rng.random(), rng.uniform(0.3, 1.0)  # drawn for every box: one more skill, one more box found
            dx, dy = rng.normal(0, 0.06, 2) * (w, h)
            if luck < skill and a["id"] % 9:
                boxes.append((x + dx, y + dy, x + dx + w, y + dy + h))
                scores.append(score)
                labels.append(a["category_id"])
        for _ in range(int(rng.poisson(2))):
            x, y = rng.uniform(0, SIDE - 20, 2)
            boxes.append((x, y, x + rng.uniform(6, 20), y + rng.uniform(6, 20)))
            scores.append(rng.uniform(0.001, 0.6))
            labels.append(int(rng.integers(len(data.classes))) + 1)
        out.append((np.clip(np.array(boxes).reshape(-1, 4), 0, SIDE), scores, labels))
    return Detections.from_images(names, out)


def _profile(cell_id: str, parameters: int, provenance: object, rng: np.random.Generator) -> ProfileRecord:
    times = (parameters / 1e5 * rng.lognormal(0, 0.1, 40)).round(3).tolist()
    p50, p90, p99 = (float(np.percentile(times, p)) for p in (50, 90, 99))
    ratio = parameters / 1.9e6
    whole = {"end_to_end": p50}
    return ProfileRecord(
        cell_id=cell_id,
        session="fabricated",
        precision="fp32",
        parameters={"total": parameters, "in_evaluation": parameters},
        macs=Macs(
            macs=parameters * 200.0,
            flops=parameters * 400.0,
            sampling_macs=0.0,
            by_operator={},
            uncounted={},
            coverage=1.0,
            uncounted_elements=0.0,
            input_shape=(1, 3, SIDE, SIDE),
            proposals=None,
        ),
        output_shapes=None,
        peak_memory_bytes=None,
        latency=Latency(
            first_call_ms=p99,
            p50=whole,
            p90={"end_to_end": p90},
            p99={"end_to_end": p99},
            iqr=whole,
            outliers={"end_to_end": 0},
            samples_ms={"end_to_end": times},
            reference="fasterrcnn_fpn",
            ratio=ratio,
            ratio_interval=(0.97 * ratio, 1.03 * ratio),
            session={},
        ),
        provenance=provenance,
    )
