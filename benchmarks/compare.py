"""`python -m benchmarks.compare BASE HEAD`: the regression gate between two folders of records.

Cells are matched by id. What is deterministic (parameters, output shapes, AP computed again from
the saved detections) must be equal, MACs and activations nearly so; AP50, AP, AP75 and AP small must
not fall by more than a stated tolerance; file size, memory on the same kind of device, and the ratio
of a latency to its session's reference must not grow by more than theirs. What BASE has and HEAD
lacks fails. Absolute times, throughput and energy are not compared: they belong to one machine.
`--reproduce` asks another question: whether HEAD, trained elsewhere, is what BASE would be trained again.
Torch-free.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, TypeVar

import typer
from rich.table import Table
from rich.text import Text
from scipy.stats import t

from benchmarks.cli import console, run_app
from benchmarks.errors import DataError, RequestError
from benchmarks.report.rows import Spreads
from benchmarks.results import Metrics
from benchmarks.store import Latency, ProfileRecord, Stored, scan

app = typer.Typer(add_completion=False)

Verdict = Literal["pass", "fail", "inconclusive", "note"]
T = TypeVar("T")

MACS_TOLERANCE = 0.01
"""Relative. The MACs of a two-stage model follow the number of its proposals, which may differ by
one or two between machines whose floating point rounds differently."""
FILE_TOLERANCE = 0.01
MEMORY_TOLERANCE = 0.1
"""Relative: what the allocator hands out depends on the kernels that a CPU has."""
RATIO_TOLERANCE = 0.25
"""Relative, on top of both intervals: ratios of one machine are not quite those of another."""
SESSION_TOLERANCE = 0.25
"""Relative: a median of paired ratios is not the ratio of two medians."""
ROUNDING = 1e-9

ACCURACY = {"AP50": "AP50", "AP": "AP", "AP75": "AP75", "AP small": "AP_small"}
"""What is judged, by its label: a model may keep AP50 and lose the places of its boxes."""

_STYLE = {"pass": "green", "fail": "bold red", "inconclusive": "yellow", "note": "dim"}


@dataclass(frozen=True)
class Check:
    """One comparison of one cell."""

    cell: str
    what: str
    verdict: Verdict
    base: str
    head: str


def compare(base: list[Stored], head: list[Stored], *, tolerance: float) -> list[Check]:
    """Checks for every cell of `base`, then a note for each cell that `head` alone has.

    Args:
        tolerance: accuracy in [0, 1] by which a cell of `head` may lie below that of `base`.
    """
    heads = {s.run.cell_id: s for s in head}
    out = []
    for old in base:
        new = heads.pop(old.run.cell_id, None)
        name = f"{old.run.cell.dataset}/{old.paths.stem}"
        if new is None:
            out.append(Check(name, "record", "fail", "present", "missing"))
            continue
        out += _one(name, old, new, tolerance)
    out += [Check(f"{s.run.cell.dataset}/{s.paths.stem}", "record", "note", "-", "new") for s in heads.values()]
    return out + _sessions(base, head)


def _one(name: str, old: Stored, new: Stored, tolerance: float) -> list[Check]:
    out = []
    if old.run.fingerprint != new.run.fingerprint:
        before, after = old.run.fingerprint.model_dump(), new.run.fingerprint.model_dump()
        changed = [k for k in before if before[k] != after[k]]
        shorten = {k: (str(before[k])[:12], str(after[k])[:12]) for k in changed}
        for key, (b, h) in shorten.items():
            out.append(Check(name, f"fingerprint {key}", "note", b, h))
    out.append(_status(name, old.run.status, new.run.status))
    if (facts := _both(out, name, "parameters", old.run.model, new.run.model)) is not None:
        out.append(_equal(name, "parameters", facts[0].parameters, facts[1].parameters))
        out.append(_equal(name, "trainable", facts[0].trainable, facts[1].trainable))
    if (metrics := _both(out, name, "metrics", old.run.metrics, new.run.metrics)) is not None:
        out += _accuracy(name, *metrics, tolerance)
    if (profiles := _both(out, name, "profile", old.profile, new.profile)) is not None:
        out += _cost(name, *profiles)
    return out


def _status(name: str, old: str, new: str) -> Check:
    """Worse is what is not ok and was; what failed before and is ok now got better."""
    worse = new != "ok" and old != new
    return Check(name, "status", "fail" if worse else "pass", old, new)


def _both(out: list[Check], name: str, what: str, old: T | None, new: T | None) -> tuple[T, T] | None:
    """Both where there are both; what `old` has and `new` lacks is a failure, added to `out`."""
    if old is not None and new is None:
        out.append(Check(name, what, "fail", "present", "missing"))
    return None if old is None or new is None else (old, new)


def _accuracy(name: str, old: Metrics, new: Metrics, tolerance: float) -> list[Check]:
    out: list[Check] = []
    for label, metric in ACCURACY.items():
        what = f"{label} (tolerance {tolerance:g})"
        if (values := _both(out, name, what, old.value(metric), new.value(metric))) is not None:
            # A drop of exactly the tolerance passes, however 0.50 - 0.02 is rounded.
            verdict: Verdict = "fail" if values[0] - values[1] > tolerance + ROUNDING else "pass"
            out.append(Check(name, what, verdict, f"{values[0]:.4f}", f"{values[1]:.4f}"))
    return out


def _cost(name: str, old: ProfileRecord, new: ProfileRecord) -> list[Check]:
    """What a model costs, as far as it is the same on another day: no absolute time."""
    out: list[Check] = []
    if (shapes := _both(out, name, "output shapes", old.output_shapes, new.output_shapes)) is not None:
        out.append(_equal(name, "output shapes", *shapes))
    if old.parameters is not None and new.parameters is not None:
        was, now = old.parameters.get("in_evaluation"), new.parameters.get("in_evaluation")
        if (pair := _both(out, name, "parameters in evaluation", was, now)) is not None:
            out.append(_equal(name, "parameters in evaluation", *pair))
    if (macs := _both(out, name, "MACs", old.macs, new.macs)) is not None:
        for what, a, b in (
            ("MACs", macs[0].macs, macs[1].macs),
            ("activations", macs[0].activations, macs[1].activations),
        ):
            if (values := _both(out, name, what, a, b)) is not None:
                bad = abs(values[1] - values[0]) > MACS_TOLERANCE * values[0]
                out.append(Check(name, what, "fail" if bad else "pass", f"{values[0]:.4g}", f"{values[1]:.4g}"))
    out.append(_grown(name, "file size", FILE_TOLERANCE, old.checkpoint_bytes, new.checkpoint_bytes))
    if old.provenance.device == new.provenance.device:
        for what, a, b in (
            ("memory of inference", old.peak_memory_bytes, new.peak_memory_bytes),
            ("memory of training", old.training_memory_bytes, new.training_memory_bytes),
        ):
            out.append(_grown(name, what, MEMORY_TOLERANCE, a, b))
    if old.latency is not None:
        out.append(_ratio(name, old.latency, new.latency))
    return [c for c in out if c.base != "-"]


def _grown(name: str, what: str, tolerance: float, old: int | None, new: int | None) -> Check:
    """Bytes may shrink, and grow by the tolerance. What was not measured again is inconclusive."""
    if old is None:
        return Check(name, what, "note", "-", "-")
    if new is None:
        return Check(name, what, "inconclusive", f"{old:,}", "not measured")
    return Check(name, what, "fail" if new > old * (1 + tolerance) else "pass", f"{old:,}", f"{new:,}")


def _ratio(name: str, old: Latency, new: Latency | None) -> Check:
    """Latency as a ratio to the session's reference: its interval may reach to the old one, and a tolerance on top."""
    what, was = "latency ratio", f"{old.ratio:.2f} to {old.reference}"
    if new is None:
        return Check(name, what, "inconclusive", was, "not measured")
    now = f"{new.ratio:.2f} to {new.reference}"
    if new.reference != old.reference:
        return Check(name, what, "inconclusive", was, now)
    slower = new.ratio_interval[0] > old.ratio_interval[1] * (1 + RATIO_TOLERANCE)
    return Check(name, what, "fail" if slower else "pass", was, now)


def _sessions(base: list[Stored], head: list[Stored]) -> list[Check]:
    """Whether ratios are those of the times beside them: times of one session, altered alone, give another ratio."""
    out = []
    for which, records in (("base", base), ("head", head)):
        times: dict[tuple[str, str], float] = {}
        for s in records:
            if s.profile is not None and s.profile.latency is not None:
                times[s.profile.session, s.run.cell.name] = s.profile.latency.p50["end_to_end"]
        for s in records:
            latency = None if s.profile is None else s.profile.latency
            reference = (
                None if latency is None or s.profile is None else times.get((s.profile.session, latency.reference))
            )
            if latency is None or reference is None:
                continue
            of_times = latency.p50["end_to_end"] / reference
            name = f"{s.run.cell.dataset}/{s.paths.stem}"
            apart = max(of_times / latency.ratio, latency.ratio / of_times) > 1 + SESSION_TOLERANCE
            verdict: Verdict = "fail" if apart else "pass"
            out.append(Check(name, f"ratio of times ({which})", verdict, f"{latency.ratio:.2f}", f"{of_times:.2f}"))
    return out


def _equal(name: str, what: str, old: object, new: object) -> Check:
    return Check(name, what, "pass" if old == new else "fail", str(old), str(new))


def reproduced(base: list[Stored], head: list[Stored]) -> list[Check]:
    """Of each cell of `base` that `head` has too, whether its AP50 and AP could be those of one more training.

    Two trainings differ by less than t sqrt(2 s^2) in 95% of tries, where s^2 is the variance between trainings on the
    same test images, pooled over the other published runs of the family on the data set under the recipe, with its
    freedoms. Machines round differently, which moves a training as another seed does. Without these none can tell.
    """
    heads = {s.run.cell_id: s for s in head}
    spreads = Spreads(s.run for s in base)
    out = []
    for old in base:
        name, new = f"{old.run.cell.dataset}/{old.paths.stem}", heads.get(old.run.cell_id)
        if new is None:
            out.append(Check(name, "record", "note", "present", "not run"))
            continue
        if old.run.metrics is None or new.run.metrics is None:
            out.append(Check(name, "metrics", "inconclusive", old.run.status, new.run.status))
            continue
        for label in ("AP50", "AP"):
            was, now = old.run.metrics.value(label), new.run.metrics.value(label)
            spread = spreads.of(label, [old.run])
            limit = None if spread is None else float(t.ppf(0.975, spread.freedom)) * math.sqrt(2 * spread.variance)
            if was is not None and was == now:
                out.append(Check(name, f"{label}, the same number", "pass", _points(was), _points(now)))
            elif was is None or now is None or spread is None or limit is None:
                why = "not measured" if was is None or now is None else "no other published training tells the spread"
                out.append(Check(name, f"{label}: {why}", "inconclusive", _points(was), _points(now)))
            else:
                verdict: Verdict = "pass" if abs(now - was) <= limit else "fail"
                what = f"{label} within {100 * limit:.1f} (SD of {spread.runs} trainings)"
                out.append(Check(name, what, verdict, _points(was), _points(now)))
    return out


def _points(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f}"


def recheck(records: list[Stored], which: str, data_root: Path | None) -> list[Check]:
    """AP of each record again from the detections beside it; exactly what it says, or a failure."""
    from benchmarks.metrics.records import recompute

    out = []
    for stored in records:
        if stored.run.metrics is None:
            continue
        name, what = f"{stored.run.cell.dataset}/{stored.paths.stem}", f"AP recomputed ({which})"
        said = stored.run.metrics
        try:
            again = recompute(stored.run, stored.paths, data_root)
        except RequestError as e:
            out.append(Check(name, what, "inconclusive", _ap(said.AP), str(e)))
        except DataError as e:
            out.append(Check(name, what, "fail", _ap(said.AP), str(e)))
        else:
            same = _close(again.AP, said.AP) and _close(again.AP50, said.AP50)
            out.append(Check(name, what, "pass" if same else "fail", _ap(said.AP), _ap(again.AP)))
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
        float, typer.Option(min=0, max=1, help="what each AP, in [0, 1], may lose before its cell fails")
    ] = 0.02,
    reproduce: Annotated[
        bool, typer.Option(help="judge instead whether HEAD lies within the spread of published trainings")
    ] = False,
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
    if reproduce:
        if not {s.run.cell_id for s in before} & {s.run.cell_id for s in after}:
            raise RequestError(f"no cell of {base} was run in {head}: nothing to reproduce")
        checks = reproduced(before, after)
    else:
        checks = compare(before, after, tolerance=tolerance)
    judged = {s.run.cell_id for s in before}
    checks += recheck(before, "base", data_root)
    checks += recheck([s for s in after if s.run.cell_id in judged], "head", data_root)
    table = Table("cell", "what", "verdict", "base", "head")
    for c in checks:
        if verbose or c.verdict != ("note" if reproduce else "pass"):
            table.add_row(c.cell, c.what, Text(c.verdict, _STYLE[c.verdict]), c.base, c.head)
    if table.row_count:
        console.print(table)
    count = {v: sum(c.verdict == v for c in checks) for v in _STYLE}
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
