"""How many times faster `benchmarks.metrics.evaluate` is than a bootstrap by pycocotools, in one run.

    python -m tests.perf.evaluation results/neu_det/canet-default-nano-f0-s0-3037a620.json

Ours: every metric of the record, with the intervals of all of them over 1,000 resamples. pycocotools: its matching
once, and its `accumulate()` for each of the same resamples, with 100 detections as the only maximum; that is the
interval of COCO's seven numbers alone. Both take turns: a round is one evaluation of ours and a share of
pycocotools' resamples. `--images 540` repeats images until there are so many; `--theirs 50` lets pycocotools do 50
resamples only and scales their time, where ten minutes are too long.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.datasets.prepared import ensure
from benchmarks.datasets.splits import load_split
from benchmarks.detections import Detections
from benchmarks.metrics.evaluator import RESAMPLES, evaluate
from benchmarks.store import CellPaths, RunRecord, read_record
from tests.perf.ratios import interval


def repeated(truth: dict[str, Any], found: Detections, images: int) -> tuple[dict[str, Any], Detections]:
    """The first images again under other names, until there are `images`."""
    n = len(truth["images"])
    name_of = {image["id"]: image["file_name"] for image in truth["images"]}
    row_of = {name: i for i, name in enumerate(found.file_names)}
    picked = [truth["images"][i % n] for i in range(images)]
    boxes: dict[int, list[dict[str, Any]]] = {}
    for a in truth["annotations"]:
        boxes.setdefault(a["image_id"], []).append(a)
    annotations = [{**a, "image_id": j + 1} for j, image in enumerate(picked) for a in boxes.get(image["id"], [])]
    rows = [slice(*found.offsets[i : i + 2]) for i in (row_of[name_of[image["id"]]] for image in picked)]
    new = {
        **truth,
        "images": [{**image, "id": j + 1, "file_name": f"{j}.png"} for j, image in enumerate(picked)],
        "annotations": [{**a, "id": j + 1} for j, a in enumerate(annotations)],
    }
    columns = [(found.boxes[r], found.scores[r], found.labels[r]) for r in rows]
    return new, Detections.from_images([image["file_name"] for image in new["images"]], columns)


class Reference:
    """pycocotools, matched once."""

    def __init__(self, truth: dict[str, Any], found: Detections) -> None:
        from pycocotools.coco import COCO
        from pycocotools.cocoeval import COCOeval

        ids = {image["file_name"]: image["id"] for image in truth["images"]}
        results = [
            {
                "image_id": ids[found.file_names[i]],
                "category_id": int(label),
                "bbox": [float(b[0]), float(b[1]), float(b[2] - b[0]), float(b[3] - b[1])],
                "score": float(score),
            }
            for i, b, score, label in zip(
                found.image_index(), found.boxes.astype(float), found.scores, found.labels, strict=True
            )
        ]
        with contextlib.redirect_stdout(io.StringIO()):
            gt = COCO()
            gt.dataset = {**truth, "info": {}}
            gt.createIndex()
            self.run = COCOeval(gt, gt.loadRes(results), "bbox")
            self.run.params.maxDets = [100]
            self.run.evaluate()
        self.matched = np.array(self.run.evalImgs, dtype=object).reshape(-1, len(truth["images"]))

    def accumulate(self, draw: np.ndarray) -> float:
        """AP50 of a resample."""
        self.run.evalImgs = self.matched[:, draw].ravel().tolist()
        with contextlib.redirect_stdout(io.StringIO()):
            self.run.accumulate()
        precision = self.run.eval["precision"][0, :, :, 0, -1]
        return float(precision[precision > -1].mean())


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("record", type=Path)
    parser.add_argument("--images", type=int, default=None)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--resamples", type=int, default=RESAMPLES)
    parser.add_argument("--theirs", type=int, default=None)
    parser.add_argument("--data-root", type=Path, default=None)
    args = parser.parse_args()
    record = read_record(args.record, RunRecord)
    cell = record.cell
    paths = CellPaths(args.record.parent.parent, args.record.parent.name, args.record.name.removesuffix(".json"))
    data = ensure(cell.dataset, args.data_root)
    truth = data.coco(load_split(cell.dataset, cell.split, cell.fold, args.data_root).test)
    found = Detections.loads(paths.detections.read_bytes(), str(paths.detections))
    if args.images is not None:
        truth, found = repeated(truth, found, args.images)
    n = len(truth["images"])
    draws = np.random.default_rng(0).integers(0, n, size=(args.resamples, n))
    evaluate(truth, found, data.classes, resamples=2)  # imports
    began = time.perf_counter()
    reference = Reference(truth, found)
    once = time.perf_counter() - began
    ours, cpu, theirs, ap50 = [], [], [], []
    for share in np.array_split(draws[: args.theirs], args.rounds):
        began, began_cpu = time.perf_counter(), time.process_time()
        got = evaluate(truth, found, data.classes, resamples=args.resamples)
        ours.append(time.perf_counter() - began)
        cpu.append(time.process_time() - began_cpu)
        began = time.perf_counter()
        ap50 += [reference.accumulate(draw) for draw in share]
        theirs.append((time.perf_counter() - began) * args.resamples / len(share))
    total = once + statistics.fmean(theirs)
    ratios = [(once + t) / o for o, t in zip(ours, theirs, strict=True)]
    low, high = interval(ratios)
    assert got.AP50_interval is not None
    ends = np.percentile(ap50, [2.5, 97.5])
    print(f"{n} images, {len(truth['annotations'])} boxes, {len(found.scores)} detections, {args.resamples} resamples")
    seconds = f"{statistics.median(ours):.2f} s (slowest {max(ours):.2f} s), {statistics.median(cpu):.2f} s of CPU"
    print(f"all metrics with intervals: {seconds}")
    print(f"pycocotools: matching {once:.2f} s, then {1000 * (total - once) / args.resamples:.0f} ms a resample")
    print(f"times faster: {statistics.median(ratios):.1f} (95% {low:.1f} to {high:.1f}, {args.rounds} rounds in turns)")
    if args.theirs is None:
        print(f"interval of AP50: ours {got.AP50_interval[0]:.4f} to {got.AP50_interval[1]:.4f}, theirs", end=" ")
        print(f"{ends[0]:.4f} to {ends[1]:.4f}")


if __name__ == "__main__":
    main()
