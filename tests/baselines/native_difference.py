"""Why ultralytics prints another AP50 than we record for the model that it trained, in numbers.

    python -m tests.baselines.native_difference runs/native/synthetic_small/yolov8n-default-n-f0-s0-288920ac.json

Every line is the same validation fold. The last line of the library's log of epochs is of the last epoch; the weights
that it hands over are those of the epoch with the best AP, stored in half precision. Its validator in training pads
images of 160 px to 192 px, ours and its own predictor to 160 px. Last, the same detections are scored by its formula
and by ours.
"""

from __future__ import annotations

import argparse
import csv
import tempfile
from pathlib import Path

import numpy as np
import safetensors.torch

from benchmarks.datasets.exporting import export
from benchmarks.datasets.prepared import ensure
from benchmarks.datasets.splits import load_split
from benchmarks.detections import Detections
from benchmarks.metrics.evaluator import evaluate
from benchmarks.runner import build_cell_model
from benchmarks.store import RunRecord, read_record
from tests.baselines.test_native import our_map50, their_validator


def printed(folder: Path) -> tuple[float, float, int]:
    """AP50 that the library printed for its last epoch and for the one it chose, and that one's number."""
    with (folder / "train" / "results.csv").open(newline="") as file:
        epochs = [{k.strip(): float(v) for k, v in row.items()} for row in csv.DictReader(file)]
    best = max(epochs, key=lambda e: e["metrics/mAP50-95(B)"])
    return epochs[-1]["metrics/mAP50(B)"], best["metrics/mAP50(B)"], int(best["epoch"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("record", type=Path)
    parser.add_argument("--data-root", type=Path)
    args = parser.parse_args()
    cell = read_record(args.record, RunRecord).cell
    data = ensure(cell.dataset, args.data_root)
    split = load_split(cell.dataset, cell.split, cell.fold, args.data_root)
    model = build_cell_model(cell, len(data.classes)).eval()
    model.load_state_dict(safetensors.torch.load_file(args.record.with_suffix(".safetensors")), strict=False)
    last, chosen, epoch = printed(args.record.with_suffix(".native"))
    rows = [("printed for the last epoch", last), (f"printed for epoch {epoch}, whose weights it keeps", chosen)]
    with tempfile.TemporaryDirectory() as folder:
        export(data, "yolo", Path(folder) / "data", split)

        def theirs(**changes: object):
            file = Path(folder) / "data" / "data.yaml"
            return their_validator(
                model.detector, file, Path(folder) / "val", imgsz=cell.image_size, split="val", **changes
            )

        value, _ = theirs(batch=2 * cell.recipe.batch_size, rect=True)
        rows.append(("its validator on those weights, padded as in training", value))
        value, _ = theirs(rect=False)
        rows.append(("its validator, padded as here, 300 detections", value))
        value, found = theirs(rect=False, max_det=100, save_json=True)
        rows.append(("its validator, padded as here, 100 detections", value))
    columns: dict[str, list] = {name: [] for name in split.val}
    stems = {Path(name).stem: name for name in split.val}
    for box in found:
        columns[stems[str(box["image_id"])]].append((*box["bbox"], box["score"], box["category_id"]))
    arrays = [np.array(v, np.float32).reshape(-1, 6) for v in columns.values()]
    boxes = [np.concatenate([a[:, :2], a[:, :2] + a[:, 2:4]], axis=1) for a in arrays]
    scored = Detections.from_images(
        list(columns), [(b, a[:, 4], a[:, 5].astype(np.int64)) for a, b in zip(arrays, boxes, strict=True)]
    )
    rows.append(("the same detections by our evaluator", evaluate(data.coco(split.val), scored, data.classes).AP50))
    rows.append(("our adapter and evaluator", our_map50(model, data, split.val)))
    width = max(len(name) for name, _ in rows)
    for name, value in rows:
        print(f"{name:{width}}  {100 * value:6.2f}")


if __name__ == "__main__":
    main()
