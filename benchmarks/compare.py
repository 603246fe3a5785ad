"""`python -m benchmarks.compare BASE HEAD`: the regression gate between two sides of records.

A side is a folder, one record, or `git:REV[:PATH]`, the records of a commit; `@MODEL` takes one model of it. Cells are
matched by id, and rows, which differ in fold and seed alone, are judged as a whole where chance has a part. `--any`
compares whatever answers the same question; `--reproduce` asks whether HEAD, trained elsewhere, is what BASE would be
trained again. A file of pytest-benchmark's is compared with another, or a folder of baselines, by the ratios within.
What each verdict rests on: docs/gate.md. Torch-free, but where times of one session are compared.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Column, Table
from rich.text import Text

from benchmarks import suites
from benchmarks.cli import console, err_console, run_app, say
from benchmarks.datasets import catalogue
from benchmarks.errors import DataError, RequestError
from benchmarks.gate import baseline, judge, outputs, ratios, revisions, sides
from benchmarks.gate.checks import Check
from benchmarks.gate.reproduction import reproduced
from benchmarks.gate.turns import Checkout, Turns
from benchmarks.report import draw
from benchmarks.store import Stored, write_atomic

app = typer.Typer(add_completion=False)

_STYLE = {"pass": "green", "fail": "bold red", "inconclusive": "yellow", "new": "cyan", "note": "dim"}


@app.command()
def main(
    context: typer.Context,
    base: Annotated[str, typer.Argument(help="what is right: a folder of records, a record, or git:REV[:PATH]")],
    head: Annotated[str, typer.Argument(help="what is judged; @MODEL after either takes the records of one model")],
    tolerance: Annotated[
        float | None,
        typer.Option(min=0, max=1, help="what the mean of each AP may lose, whoever can tell it; default: the suite's"),
    ] = None,
    suite: Annotated[str, typer.Option(help="whose limits apply, a name or a file")] = "smoke",
    any_runs: Annotated[
        bool, typer.Option("--any", help="compare what answers the same question, whoever does; what differs first")
    ] = False,
    reproduce: Annotated[
        bool, typer.Option(help="judge instead whether HEAD lies within the spread of published trainings")
    ] = False,
    one_job: Annotated[
        bool, typer.Option(help="both were trained here in one job: compare memory directly, time the models in turns")
    ] = False,
    base_source: Annotated[
        Path | None,
        typer.Option(help="of --one-job: the checkout that BASE was trained from; HEAD's is the current folder"),
    ] = None,
    train: Annotated[
        bool, typer.Option(help="train --suite for each git:REV, in a worktree and an environment of its own")
    ] = False,
    tier: Annotated[str | None, typer.Option(help="of --train")] = None,
    seed: Annotated[list[int] | None, typer.Option(metavar="N", min=0, help="of --train (repeatable)")] = None,
    markdown: Annotated[Path | None, typer.Option(help="write a comment for a pull request")] = None,
    json: Annotated[Path | None, typer.Option(help="write every check")] = None,
    junit: Annotated[Path | None, typer.Option(help="write JUnit XML")] = None,
    update_baseline: Annotated[
        bool, typer.Option(help="replace the records of BASE by HEAD's, with a line in its history")
    ] = False,
    reason: Annotated[str, typer.Option(help="of --update-baseline")] = "",
    strict: Annotated[bool, typer.Option(help="exit with 3 when something could not be judged")] = False,
    data_root: Annotated[Path | None, typer.Option(help="where prepared data sets lie")] = None,
    verbose: Annotated[bool, typer.Option(help="also show what passed")] = False,
) -> None:
    """Judge HEAD by BASE: exit 0 when nothing got worse, 1 when something did, 3 with --strict when none can tell."""
    if update_baseline and not reason.strip():
        raise RequestError("--update-baseline needs --reason: it stands in the history")
    if update_baseline and not Path(base).is_dir():
        raise RequestError(f"--update-baseline replaces the records of a folder; {base} is none")
    if update_baseline and sides.split(head)[1] is not None:
        raise RequestError(f"--update-baseline replaces all records of BASE, and {head} is one model of a side")
    if any_runs and reproduce:
        raise RequestError("--any and --reproduce are two questions; ask one")
    if train and not all(side.startswith("git:") and side.count(":") == 1 for side in (base, head)):
        raise RequestError("--train trains both sides: name two commits, as git:REV git:REV")
    if (tier is not None or seed) and not train:
        raise RequestError("--tier and --seed say what --train trains; leave them out, or add it")
    if base_source is not None and not (one_job and base_source.is_dir()):
        raise RequestError("--base-source is the folder of a checkout, and belongs to --one-job")
    limits = suites.load(suite, catalogue.data_root(data_root)).limits
    work = Path(context.with_resource(tempfile.TemporaryDirectory(prefix="canet-bench-")))
    names = base, head
    if ratios.is_report(base) or ratios.is_report(head):
        if any_runs or reproduce or train or one_job or tolerance is not None:
            raise RequestError("files of pytest-benchmark's hold ratios alone: leave out what asks of records")
        checks = ratios.compare(Path(base), Path(head), limits.latency_ratio)
        groups = len({check.cell for check in checks})
        _show(checks, groups, verbose=verbose, reproduce=False)
        _write(checks, names, groups, markdown, json, junit)
        if update_baseline:
            say(f"{ratios.replace(Path(base), Path(head), reason)}: the baseline of this machine type now: {reason}")
            return
        _exit(checks, strict=strict)
        return
    checkouts = [None if base_source is None else Checkout(base_source), Checkout(Path.cwd())]
    if train:
        extras = suites.load(suite, catalogue.data_root(data_root)).extras(tier)
        asked = revisions.SuiteRequest(suite, tier, tuple(seed or ()), data_root, extras)
        places = [base, head]
        for i, (side, which) in enumerate(zip(names, ("base", "head"), strict=True)):
            if side.startswith("git:"):
                making = revisions.trained(sides.revision_of(side)[0], asked, work / which, say)
                runs, checkouts[i] = context.with_resource(making)
                places[i] = str(runs)
        base, head = places
        one_job = True
    turns = Turns(checkouts[0], checkouts[1], data_root) if one_job else None
    before, after, checks = _read(base, head, work)
    if update_baseline and any(s.paths.root.resolve() != Path(base).resolve() for s in before):
        raise RequestError(f"--update-baseline: {base} is the folder of a data set; name the one that holds it")
    if not checks:
        checks = _checks(before, after, names, limits, tolerance, any_runs=any_runs, reproduce=reproduce, turns=turns)
        checks += _recheck(before, after, data_root, any_runs=any_runs)
    _show(checks, len(before), verbose=verbose, reproduce=reproduce)
    _write(checks, names, len(before), markdown, json, junit)
    if update_baseline:
        if not before or not after:
            raise RequestError("--update-baseline: a side has no records; nothing was replaced")
        kept = {s.run.cell_id for s in after}
        line = baseline.replace(before, after, Path(base), reason)
        for gone in (s for s in before if s.run.cell_id not in kept):
            say(f"removed: {gone.paths.record}")
        say(f"{base}: {len(after)} records of {(line.commit or '-')[:12]} are the baseline now: {line.reason}")
        _redraw(Path(base))
        return
    _exit(checks, strict=strict)


def _read(base: str, head: str, work: Path) -> tuple[list[Stored], list[Stored], list[Check]]:
    """The records of both sides; a failure, and none of that side, where they are damaged or a cell is there twice."""
    before: list[Stored] = []
    which = "base"
    try:
        before = sides.read(base, work)
        if not before:
            raise RequestError(f"no records in {base}: nothing to compare with")
        which = "head"
        return before, sides.read(head, work), []
    except DataError as e:  # all outputs say so
        err_console.print(Text.assemble(("error:", "bold red"), f" the {which}: {e}"), soft_wrap=True)
        said = (f"{len(before)} readable", str(e)) if before else (str(e), "-")
        return before, [], [Check(head if before else base, f"records of the {which}", "fail", *said)]


def _exit(checks: Sequence[Check], *, strict: bool) -> None:
    count = judge.verdicts(checks)
    if count["fail"]:
        raise typer.Exit(1)
    if strict and count["inconclusive"]:
        raise typer.Exit(3)


def _checks(
    before: Sequence[Stored],
    after: Sequence[Stored],
    names: tuple[str, str],
    limits: suites.GateLimits,
    tolerance: float | None,
    *,
    any_runs: bool,
    reproduce: bool,
    turns: Turns | None,
) -> list[Check]:
    one_job = turns is not None
    if reproduce:
        if not {s.run.cell_id for s in before} & {s.run.cell_id for s in after}:
            raise RequestError(f"no cell of {names[0]} was run in {names[1]}: nothing to reproduce")
        return reproduced(before, after)
    if any_runs:
        rows, differences = judge.any_rows(before, after)
        found = judge.judged(rows, before, after, limits=limits, tolerance=tolerance, one_job=one_job, turns=turns)
        return [*differences, *found]
    return judge.compare(before, after, limits=limits, tolerance=tolerance, one_job=one_job, turns=turns)


def _recheck(
    before: Sequence[Stored], after: Sequence[Stored], data_root: Path | None, *, any_runs: bool
) -> list[Check]:
    rows = set(judge.grouped(before))
    judged = [s for key, own in judge.grouped(after).items() if key in rows or any_runs for s in own]
    return judge.recheck(before, "base", data_root) + judge.recheck(judged, "head", data_root)


def _show(checks: Sequence[Check], cells: int, *, verbose: bool, reproduce: bool) -> None:
    table = Table(Column("cell", overflow="fold"), "what", "verdict", "base", "head")
    for c in checks:
        if verbose or c.verdict != ("note" if reproduce else "pass"):
            table.add_row(c.cell, c.what, Text(outputs.word(c.verdict), _STYLE[c.verdict]), c.base, c.head)
    if table.row_count:
        console.print(table)
    say(outputs.sentence(checks, cells))


def _write(
    checks: Sequence[Check],
    names: tuple[str, str],
    cells: int,
    markdown: Path | None,
    json: Path | None,
    junit: Path | None,
) -> None:
    comment = outputs.markdown(checks, *names, cells)
    if markdown is not None:
        write_atomic(markdown, comment.encode())
    if json is not None:
        write_atomic(json, outputs.as_json(checks, *names, cells).encode())
    if junit is not None:
        write_atomic(junit, outputs.junit(checks))
    if os.environ.get("GITHUB_ACTIONS") == "true":
        for line in outputs.workflow_commands(checks):
            say(line)
    outputs.summarize_for_github(comment)


def _redraw(folder: Path) -> None:
    """The history's figure, where the records are those of this repository."""
    results = folder.resolve().parent
    if folder.name == draw.GATE and (reports := results.parent / "reports").is_dir():
        draw.write_history(results, reports)
        say(f"drawn: {reports / 'history.svg'}")


if __name__ == "__main__":
    run_app(app)
