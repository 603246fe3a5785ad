"""`python -m benchmarks.evaluate`: metrics from detections, of our records or of anybody's files."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.table import Table

from ablations.effects import points
from benchmarks.cli import console, run_app
from benchmarks.datasets import catalogue
from benchmarks.datasets.prepared import ensure, to_json
from benchmarks.datasets.splits import load_split
from benchmarks.detections import read
from benchmarks.errors import DataError, RequestError
from benchmarks.metrics.records import agree, measure, opened, recompute, update, within
from benchmarks.results import Interval, Metrics
from benchmarks.store import CellPaths, RunRecord, read_record, write_atomic

if TYPE_CHECKING:
    from collections.abc import Sequence

app = typer.Typer(add_completion=False)

Evaluator = Literal["ours", "pycocotools"]


@app.command()
def main(
    records: Annotated[
        list[Path] | None, typer.Argument(metavar="RECORD ...", help="run records, results/<dataset>/<cell>.json")
    ] = None,
    detections: Annotated[
        Path | None, typer.Option(help="instead: a COCO results JSON, or a folder of YOLO txt files with scores")
    ] = None,
    dataset: Annotated[str | None, typer.Option(help="with --detections: the data set they are of")] = None,
    split: Annotated[str | None, typer.Option(help="its split list (default: the data set's own)")] = None,
    fold: Annotated[
        int | None, typer.Option(min=0, help="with --detections: the fold whose test images they are of (default: 0)")
    ] = None,
    validation: Annotated[
        Path | None, typer.Option(help="detections of the fold's validation images, to choose the operating point on")
    ] = None,
    ids: Annotated[
        Path | None,
        typer.Option(help="with --detections: the COCO file whose ids they are in (default: the set's source)"),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="with --detections: write all metrics to this JSON file")] = None,
    rewrite: Annotated[
        bool, typer.Option("--rewrite", help="write records anew, with the metrics of today's evaluator")
    ] = False,
    evaluator: Annotated[
        Evaluator,
        typer.Option(help="ours, or pycocotools: the reference implementation, for COCO's numbers of records"),
    ] = "ours",
    data_root: Annotated[Path | None, typer.Option(help="where prepared data sets lie")] = None,
) -> None:
    """Compute the metrics of records again from their saved detections, or those of anybody's detections."""
    if (detections is None) == (not records):
        raise RequestError("give run records, or --detections FILE --dataset NAME")
    if detections is not None:
        if rewrite:
            raise RequestError("--rewrite is for records; with --detections use --out")
        if evaluator != "ours":
            raise RequestError(f"--evaluator {evaluator} is for records; leave it out")
        _of_file(detections, validation, dataset, split, fold or 0, ids, out, data_root)
        return
    with_detections = {
        "dataset": dataset,
        "split": split,
        "fold": fold,
        "validation": validation,
        "ids": ids,
        "out": out,
    }
    for name, value in with_detections.items():
        if value is not None:
            raise RequestError(f"--{name} goes with --detections; a record says itself what it is of")
    if evaluator == "pycocotools" and rewrite:
        raise RequestError("--rewrite writes our evaluator's metrics; leave out --evaluator")
    runs = [p for p in records or () if not p.name.endswith(".profile.json")]  # a pattern takes them along
    if not runs:
        raise RequestError("only profiles are given; records are the *.json beside them")
    if evaluator == "pycocotools":
        _by_pycocotools(runs, data_root)
    else:
        _of_records(runs, rewrite, data_root)


def _by_pycocotools(records: Sequence[Path], data_root: Path | None) -> None:
    """COCO's nine numbers of records by pycocotools, beside the recorded ones; DataError where they differ."""
    from benchmarks.metrics.reference import NAMES, coco_numbers

    table = Table("record", *NAMES)
    differs = []
    for path in records:
        record = read_record(path, RunRecord)
        if record.status == "diverged":
            console.print(f"{path}: diverged, there is nothing to evaluate", soft_wrap=True, highlight=False)
            continue
        if record.metrics is None:
            raise RequestError(f"{path} holds no metrics: its status is {record.status!r}")
        stem = path.name.removesuffix(".json")
        data, split, saved = opened(record, CellPaths(path.parent.parent, path.parent.name, stem), data_root)
        numbers = coco_numbers(data.coco(split.test), saved[0], data.classes)
        recorded = [getattr(record.metrics, name) for name in NAMES]
        table.add_row(stem, *("-" if v is None else f"{v:.4f}" for v in numbers))
        if not all(map(within, recorded, numbers)):
            differs.append(stem)
    console.print(table)
    if differs:
        raise DataError(f"pycocotools has other numbers than are recorded: {', '.join(differs)}")
    told = f"pycocotools has the recorded numbers of {table.row_count} records, to 1e-9"
    console.print(told if table.row_count else "nothing was compared: every training diverged", highlight=False)


def _of_records(records: Sequence[Path], rewrite: bool, data_root: Path | None) -> None:
    table = Table("record", "AP50", "AP", "recorded AP50", "evaluator")
    differs = []
    for path in records:
        record = read_record(path, RunRecord)
        if record.status == "diverged":
            console.print(f"{path}: diverged, there is nothing to evaluate", soft_wrap=True, highlight=False)
            continue
        if record.metrics is None:
            raise RequestError(f"{path} holds no metrics: its status is {record.status!r}")
        stem = path.name.removesuffix(".json")
        paths = CellPaths(path.parent.parent, path.parent.name, stem)
        if rewrite:
            new = update(record, paths, data_root)
            assert new.metrics is not None
            metrics, version = new.metrics, f"{record.fingerprint.evaluator} -> {new.fingerprint.evaluator}"
        else:
            metrics, version = recompute(record, paths, data_root), str(record.fingerprint.evaluator)
            if not agree(record, metrics):
                differs.append(stem)
        show = [f"{v:.4f}" if v is not None else "-" for v in (metrics.AP50, metrics.AP, record.metrics.AP50)]
        table.add_row(stem, *show, version)
    console.print(table)
    if differs:
        raise DataError(f"recomputed metrics differ from the recorded ones: {', '.join(differs)}")


def _of_file(
    path: Path,
    validation: Path | None,
    dataset: str | None,
    split_name: str | None,
    fold: int,
    ids: Path | None,
    out: Path | None,
    data_root: Path | None,
) -> None:
    from benchmarks.metrics import EVALUATOR_VERSION, MAX_DETECTIONS

    if dataset is None:
        raise RequestError("--detections needs --dataset NAME: the data set whose images they are of")
    spec = catalogue.get(dataset, data_root)
    split = load_split(dataset, split_name or spec.split, fold, data_root)
    data = ensure(dataset, data_root)
    test = read(path, data, split.test, ids)
    val = None if validation is None else read(validation, data, split.val, ids)
    metrics = measure(data, split, test.detections, None if val is None else val.detections)
    console.print(summary(f"{path.name} on {dataset}, {split.name}, fold {fold}", metrics))
    read_files = {"": test} | ({} if val is None else {"validation: ": val})
    for prefix, one in read_files.items():
        for line in one.notes(MAX_DETECTIONS):
            console.print(f"{prefix}{line}", highlight=False, soft_wrap=True)
    if out is not None:
        content = {
            "detections": path.name,
            "dataset": dataset,
            "split": split.name,
            "fold": fold,
            "fingerprint": {"data": data.manifest_digest, "split": split.digest, "evaluator": EVALUATOR_VERSION},
            "metrics": metrics.model_dump(mode="json"),
        }
        write_atomic(out, to_json(content))
        console.print(f"all metrics: {out}", highlight=False)


def summary(title: str, m: Metrics) -> Table:
    """The numbers one looks for first, with their intervals and what they are over, for the terminal."""
    table = Table("metric", "value", "95% interval", "over", title=title, title_justify="left")
    for column in table.columns[1:3]:
        column.justify = "right"

    def row(label: str, name: str, over: str, span: Interval | None = None, scale: int = 100) -> None:
        value, span = m.value(name), span or m.intervals.get(name)
        shown = "-" if value is None else f"{scale * value:.1f}"
        ends = "-" if span is None else " to ".join(f"{scale * v:.1f}" for v in span)
        if span is not None and span[0] == span[1]:
            ends = "degenerate"  # nothing varied, which says nothing of other images
        table.add_row(label, shown, ends, over)

    images, everything = f"{m.images} images", f"{m.boxes} boxes in {m.images} images"
    for name in ("AP50", "AP", "AP75"):
        row(name, name, everything)
    for size, boxes in (("small", m.boxes_small), ("medium", m.boxes_medium), ("large", m.boxes_large)):
        row(f"AP {size}", f"AP_{size}", f"{boxes} boxes")
    row("AR 100", "AR_100", everything)
    for bin_name, values in m.sizes.items():
        row(f"AP50 {bin_name}", f"sizes.{bin_name}.AP50", f"{values.boxes} boxes")
    for class_name, of_class in m.per_class.items():
        row(f"AP50 {class_name}", f"per_class.{class_name}.AP50", f"{of_class.boxes} boxes", of_class.AP50_interval)
    table.add_section()
    row("AP50, VOC 2007 (11 points)", "VOC07_AP50", everything)
    row("  and widths of x2 - x1 + 1", "VOC07_AP50_plus1", everything)
    row("AP50, VOC 2010 on (all points)", "VOC12_AP50", everything)
    row("AP at IoU > 0.33 (DeepPCB)", "DeepPCB_AP", everything)
    row("best F-score at IoU > 0.33 (DeepPCB)", "DeepPCB_F", everything)
    row("  at the threshold of validation", "DeepPCB_F_operating", everything)
    table.add_section()
    seen = m.inspection
    assert seen is not None
    for limit in ("0.125", "1", "8"):
        row(f"recall at {limit} false per image", f"inspection.FROC.{limit}", everything)
        if seen.FROC_defect_free is not None:
            over = f"{seen.defect_free_images} defect-free images"
            row(f"recall at {limit} false per defect-free image", f"inspection.FROC_defect_free.{limit}", over)
    row("AUROC of images", "inspection.image_level.AUROC", images)
    row("calibration error of scores", "inspection.calibration.ECE", "scores from 0.1")
    point = "best_F1" if seen.operating_point is None else "operating_point"
    at = seen.operating_point or seen.best_F1
    if at is not None:
        table.add_section()
        table.add_row(f"at score {at.threshold:.3f}, best F1 on {at.chosen_on}:")
        for name in ("precision", "recall", "F1"):
            row(f"  {name}", f"inspection.{point}.{name}", everything)
        row("  escape", f"inspection.{point}.escape", f"{m.defective_images} defective images")
        row("  overkill", f"inspection.{point}.overkill", f"{seen.defect_free_images} defect-free images")
        row("  false per image", f"inspection.{point}.false_positives_per_image", images, scale=1)
    table.add_section()
    for kind, share in seen.errors.items():
        gain = "-" if share.dAP50 is None else points(share.dAP50)
        table.add_row(f"AP50 without {kind} errors", gain, "", f"{share.count} errors")
    return table


if __name__ == "__main__":
    run_app(app)
