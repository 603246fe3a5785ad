"""`python -m benchmarks.compare BASE HEAD`: the regression gate between two folders of records.

Cells are matched by id. What is deterministic (parameters, output shapes, AP computed again from
the saved detections) must be equal, MACs nearly so; accuracy must not fall by more than a stated
tolerance. Torch-free.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.table import Table

from benchmarks.cli import console, run_app
from benchmarks.errors import DataError, RequestError
from benchmarks.store import Stored, scan

app = typer.Typer(add_completion=False)

Verdict = Literal["pass", "fail", "inconclusive", "note"]

MACS_TOLERANCE = 0.01
"""Relative. The MACs of a two-stage model follow the number of its proposals, which may differ by
one or two between machines whose floating point rounds differently."""

_STYLE = {"pass": "green", "fail": "bold red", "inconclusive": "yellow", "note": "dim"}


@dataclass(frozen=True)
class Finding:
    """One comparison of one cell."""

    cell: str
    what: str
    verdict: Verdict
    base: str
    head: str


def compare(base: list[Stored], head: list[Stored], *, tolerance: float) -> list[Finding]:
    """Findings for every cell of `base`, then a note for each cell that `head` alone has.

    Args:
        tolerance: AP50 in [0, 1] by which a cell of `head` may lie below that of `base`.
    """
    heads = {s.run.cell_id: s for s in head}
    out = []
    for old in base:
        new = heads.pop(old.run.cell_id, None)
        name = f"{old.run.cell.dataset}/{old.paths.stem}"
        if new is None:
            out.append(Finding(name, "record", "fail", "present", "missing"))
            continue
        out += _one(name, old, new, tolerance)
    out += [Finding(f"{s.run.cell.dataset}/{s.paths.stem}", "record", "note", "-", "new") for s in heads.values()]
    return out


def _one(name: str, old: Stored, new: Stored, tolerance: float) -> list[Finding]:
    out = []
    if old.run.fingerprint != new.run.fingerprint:
        before, after = old.run.fingerprint.model_dump(), new.run.fingerprint.model_dump()
        changed = [k for k in before if before[k] != after[k]]
        shorten = {k: (str(before[k])[:12], str(after[k])[:12]) for k in changed}
        for key, (b, h) in shorten.items():
            out.append(Finding(name, f"fingerprint {key}", "note", b, h))
    out.append(_equal(name, "status", old.run.status, new.run.status))
    if old.run.model and new.run.model:
        out.append(_equal(name, "parameters", old.run.model.parameters, new.run.model.parameters))
        out.append(_equal(name, "trainable", old.run.model.trainable, new.run.model.trainable))
    if old.profile is not None:
        if new.profile is None:
            out.append(Finding(name, "profile", "fail", "present", "missing"))
        else:
            out.append(_equal(name, "output shapes", old.profile.output_shapes, new.profile.output_shapes))
            if old.profile.macs and new.profile.macs:
                was, now = old.profile.macs.macs, new.profile.macs.macs
                bad = abs(now - was) > MACS_TOLERANCE * was
                out.append(Finding(name, "MACs", "fail" if bad else "pass", f"{was:.4g}", f"{now:.4g}"))
    if old.run.metrics is not None and new.run.metrics is not None:
        b50, h50 = old.run.metrics.AP50, new.run.metrics.AP50
        if b50 is not None and h50 is not None:
            verdict: Verdict = "fail" if h50 < b50 - tolerance else "pass"
            out.append(Finding(name, f"AP50 (tolerance {tolerance:g})", verdict, f"{b50:.4f}", f"{h50:.4f}"))
    return out


def _equal(name: str, what: str, old: object, new: object) -> Finding:
    return Finding(name, what, "pass" if old == new else "fail", str(old), str(new))


def recheck(records: list[Stored], which: str, data_root: Path | None) -> list[Finding]:
    """AP of each record again from the detections beside it; exactly what it says, or a failure."""
    from benchmarks.evaluate import recompute

    out = []
    for stored in records:
        if stored.run.metrics is None:
            continue
        name, what = f"{stored.run.cell.dataset}/{stored.paths.stem}", f"AP recomputed ({which})"
        said = stored.run.metrics
        try:
            again = recompute(stored.run, stored.paths, data_root)
        except RequestError as e:
            out.append(Finding(name, what, "inconclusive", _ap(said.AP), str(e)))
        except DataError as e:
            out.append(Finding(name, what, "fail", _ap(said.AP), str(e)))
        else:
            same = _close(again.AP, said.AP) and _close(again.AP50, said.AP50)
            out.append(Finding(name, what, "pass" if same else "fail", _ap(said.AP), _ap(again.AP)))
    return out


def _close(a: float | None, b: float | None) -> bool:
    return a == b or (a is not None and b is not None and abs(a - b) < 1e-9)


def _ap(value: float | None) -> str:
    return "-" if value is None else f"{value:.6f}"


@app.command()
def main(
    base: Annotated[Path, typer.Argument(help="folder of records that are right, results/ or results/_gate")],
    head: Annotated[Path, typer.Argument(help="folder of records to judge, runs/")],
    tolerance: Annotated[
        float, typer.Option(min=0, max=1, help="AP50, in [0, 1], that a cell may lose before it fails")
    ] = 0.02,
    strict: Annotated[bool, typer.Option(help="exit with 3 when something could not be judged")] = False,
    data_root: Annotated[Path | None, typer.Option(help="where prepared data sets lie")] = None,
    verbose: Annotated[bool, typer.Option(help="also show what passed")] = False,
) -> None:
    """Judge HEAD by BASE: exit 0 when nothing got worse, 1 when something did."""
    for folder in (base, head):
        if not folder.is_dir():
            raise RequestError(f"no folder {folder}")
    before, after = list(scan(base)), list(scan(head))
    if not before:
        raise RequestError(f"no records below {base}: nothing to compare with")
    findings = compare(before, after, tolerance=tolerance)
    judged = {s.run.cell_id for s in before}
    findings += recheck(before, "base", data_root)
    findings += recheck([s for s in after if s.run.cell_id in judged], "head", data_root)
    table = Table("cell", "what", "verdict", "base", "head")
    for f in findings:
        if verbose or f.verdict != "pass":
            table.add_row(f.cell, f.what, f"[{_STYLE[f.verdict]}]{f.verdict}[/]", f.base, f.head)
    if table.row_count:
        console.print(table)
    count = {v: sum(f.verdict == v for f in findings) for v in _STYLE}
    console.print(
        f"{len(before)} cells: {count['pass']} passed, {count['fail']} failed, "
        f"{count['inconclusive']} inconclusive, {count['note']} notes",
        highlight=False,
    )
    if count["fail"]:
        raise typer.Exit(1)
    if strict and count["inconclusive"]:
        raise typer.Exit(3)


if __name__ == "__main__":
    run_app(app)
