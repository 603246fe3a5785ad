"""`python -m benchmarks.evaluate RECORD ...`: metrics again, from the detections beside each record."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from benchmarks.cli import console, run_app
from benchmarks.datasets.prepared import ensure
from benchmarks.datasets.splits import load_split
from benchmarks.errors import DataError, RequestError
from benchmarks.store import CellPaths, Detections, Metrics, RunRecord, read_record

app = typer.Typer(add_completion=False)


def recompute(record: RunRecord, detections: Path, data_root: Path | None) -> Metrics:
    """Metrics of a record from its saved detections and the data set under `data_root`.

    Raises:
        DataError: the detections are not those that the record was made from.
        RequestError: the data set is neither prepared nor embedded.
    """
    import hashlib

    from benchmarks.metrics import evaluate

    try:
        content = detections.read_bytes()
    except OSError as e:
        raise DataError(f"cannot read {detections}: {e.strerror or e}") from None
    if hashlib.sha256(content).hexdigest() != record.detections_sha256:
        raise DataError(f"{detections} is not the file that its record was made from: digest mismatch")
    data = ensure(record.cell.dataset, data_root)
    if data.manifest_digest != record.fingerprint.data:
        raise DataError(f"data set {data.name!r} is not the one the record was made from; prepare it again")
    split = load_split(record.cell.dataset, record.cell.split, record.cell.fold)
    return evaluate(data.coco(split.test), Detections.loads(content, str(detections)), data.classes)


@app.command()
def main(
    records: Annotated[list[Path], typer.Argument(help="run records, results/<dataset>/<cell>.json")],
    data_root: Annotated[Path | None, typer.Option(help="where prepared data sets lie")] = None,
) -> None:
    """Compute the metrics of records again from their saved detections, and show what differs."""
    table = Table("record", "AP50", "AP", "recorded AP50")
    differs = []
    for path in records:
        record = read_record(path, RunRecord)
        if record.metrics is None:
            raise RequestError(f"{path} holds no metrics: its status is {record.status!r}")
        stem = path.name.removesuffix(".json")
        metrics = recompute(record, CellPaths(path.parent.parent, path.parent.name, stem).detections, data_root)
        if metrics != record.metrics:
            differs.append(stem)
        show = [f"{v:.4f}" if v is not None else "-" for v in (metrics.AP50, metrics.AP, record.metrics.AP50)]
        table.add_row(stem, *show)
    console.print(table)
    if differs:
        raise DataError(f"recomputed metrics differ from the recorded ones: {', '.join(differs)}")


if __name__ == "__main__":
    run_app(app)
