"""Replacing the gate's records, with a line that says why."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path

from benchmarks.errors import RequestError
from benchmarks.gate.judge import grouped, row_name
from benchmarks.report import history
from benchmarks.report.history import Baseline, BaselineRow
from benchmarks.store import CellPaths, Stored, write_atomic


def described(records: Sequence[Stored], reason: str) -> Baseline:
    """The line of records that become the baseline.

    Raises:
        RequestError: they were made by several commits, or the reason says nothing.
    """
    commits = {s.run.provenance.commit for s in records}
    if len(commits) != 1:
        names = ", ".join(sorted(str(c)[:12] for c in commits))
        raise RequestError(f"a baseline is of one commit; these records are of {len(commits)}: {names or 'none'}")
    if not reason.strip():
        raise RequestError("--reason says why the baseline is replaced")
    rows = []
    for own in grouped(records).values():
        own = sorted(own, key=lambda s: (s.run.cell.fold, s.run.cell.seed))
        measured = [s.run.metrics for s in own if s.run.metrics is not None]
        values = [m.AP50 for m in measured if m.AP50 is not None]
        APs = [m.AP for m in measured if m.AP is not None]
        profile = next((s.profile for s in own if s.profile is not None), None)
        facts = own[0].run.model
        rows.append(
            BaselineRow(
                name=row_name(own[0]),
                runs=len(measured),
                AP50=statistics.fmean(values) if values else None,
                AP50_values=tuple(values),
                AP=statistics.fmean(APs) if APs else None,
                parameters=None if facts is None else facts.parameters,
                macs=profile.macs.macs if profile is not None and profile.macs is not None else None,
            )
        )
    date = max(s.run.provenance.ended for s in records)
    return Baseline(date=date, commit=commits.pop(), reason=" ".join(reason.split()), rows=tuple(rows))


def replace(base: Sequence[Stored], head: Sequence[Stored], folder: Path, reason: str) -> Baseline:
    """Put the records of `head` in the place of those of `base`, in `folder`, and add a line to its history.

    What is copied is read before anything is removed, so that a head may lie in the same folder.

    Raises:
        RequestError: a record of `head` failed, or nobody could say which source made it; nothing is changed then.
    """
    for s in head:
        why = s.run.provenance.unpublishable or (s.profile and s.profile.provenance.unpublishable)
        if s.run.status != "ok" or why:
            raise RequestError(f"{s.paths.record} is no baseline: {why or s.run.status}; nothing was replaced")
    new = described(head, reason)
    lines = history.read(folder / history.FILE)
    content = {
        target: source.read_bytes()
        for s in head
        for source, target in zip(_files(s.paths), _files(CellPaths.of(folder, s.run.cell)), strict=True)
        if source.exists()
    }
    kept = {s.run.cell_id for s in head}
    stale = {s.run.cell_id: set(_files(CellPaths.of(folder, s.run.cell))) - set(content) for s in base}
    for path in (path for cell, paths in stale.items() if cell in kept for path in paths):
        path.unlink(missing_ok=True)
    changed = {path for path, data in content.items() if not path.exists() or path.read_bytes() != data}
    records = [CellPaths.of(folder, s.run.cell).record for s in head]
    for path in changed.intersection(records):  # each after its files: what an interruption leaves is gone on with
        path.unlink(missing_ok=True)
    for path, data in sorted(content.items(), key=lambda entry: entry[0] in records):
        if not path.exists() or path.read_bytes() != data:
            write_atomic(path, data)
    for path in (path for cell, paths in stale.items() if cell not in kept for path in paths):
        path.unlink(missing_ok=True)
    text = "".join(history.line(one) for one in [*lines, new])
    write_atomic(folder / history.FILE, text.encode())
    return new


def _files(paths: CellPaths) -> tuple[Path, ...]:
    """What is published of a cell."""
    return paths.record, paths.profile, paths.detections, paths.val_detections
