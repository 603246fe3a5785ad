"""`python -m benchmarks.run --suite small_defects`: train, evaluate, profile, draw."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from benchmarks import host, mps, plan, preflight, running, suites
from benchmarks.cells import Cell, Tile
from benchmarks.cli import console, print_table, run_app, say
from benchmarks.cost import latency_files
from benchmarks.datasets import catalogue
from benchmarks.devices import (
    Arithmetic,
    SourceState,
    arithmetic_in_use,
    compute_with,
    device_class,
    pick_device,
    source_at_start,
)
from benchmarks.errors import RequestError, nearest
from benchmarks.executors import Ended, Limits, Progress, Started
from benchmarks.executors.local import Local
from benchmarks.executors.processes import Processes
from benchmarks.progress import RunProgress, Stopped
from benchmarks.store import CellPaths, RunRecord, Status, Stored, load, read_record, scan, write_atomic, write_record
from benchmarks.tensorboard import Logs

if TYPE_CHECKING:
    import torch

    from benchmarks.cost.session import ProgressCallback
    from benchmarks.datasets.prepared import PreparedDataset
    from benchmarks.runner import Job

app = typer.Typer(add_completion=False)


RESULTS, REPORTS = Path("results"), Path("reports")


def _list_models(asked: bool) -> None:
    """Print the registry and leave."""
    if not asked:
        return
    from benchmarks import models

    found = []
    for name, spec in models.MODELS.items():
        variants = ", ".join(v for v in models.variants(name) if v != "default")
        missing = models.missing_extra(name)
        found.append((name, spec.label, spec.family, variants, "" if missing is None else f"extra {spec.extra}"))
    print_table(("model", "label", "family", "variants", "needs"), found)
    console.print("And mmdet:PATH, a configuration of MMDetection, and package.module:builder, a detector of yours.")
    raise typer.Exit


@app.command()
def main(
    context: typer.Context,
    suite: Annotated[
        str,
        typer.Option(help="name of a suite (" + ", ".join(suites.names()) + "), or a file of yours, path/to/my.yaml"),
    ],
    tier: Annotated[
        str | None,
        typer.Option(help="of the suite, as its file names them; its first without a GPU, its last with one"),
    ] = None,
    dataset: Annotated[list[str] | None, typer.Option(metavar="NAME", help="only this data set (repeatable)")] = None,
    model: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="only this model: name, name:variant, name:* for all its variants in the suite, or a detector of "
            "yours, package.module:builder (repeatable)",
        ),
    ] = None,
    split: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="this split list instead of its data set's default one (repeatable)"),
    ] = None,
    fold: Annotated[
        list[int] | None, typer.Option(metavar="N", min=0, help="instead of the tier's folds (repeatable)")
    ] = None,
    seed: Annotated[
        list[int] | None, typer.Option(metavar="N", min=0, help="instead of the tier's seeds (repeatable)")
    ] = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="instead of the recipe's")] = None,
    weights: Annotated[
        Path | None,
        typer.Option(help="start from this weights file, as yolov8n.pt; for models whose library loads one (YOLO)"),
    ] = None,
    tile: Annotated[
        int | None, typer.Option(min=64, help="cut large images into tiles of this side that overlap by a quarter")
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1 ...")] = "auto",
    workers: Annotated[
        int | None,
        typer.Option(
            min=1, help="cells at a time; default: as cores and memory allow, on a GPU as its first cell shows"
        ),
    ] = None,
    threads: Annotated[int, typer.Option(min=1, help="CPU threads of a cell; the last bits depend on it")] = 1,
    arithmetic: Annotated[
        Arithmetic,
        typer.Option(help="portable: instructions that x86-64 CPUs of the last ten years share, for equal bits"),
    ] = Arithmetic.native,
    loaders: Annotated[int, typer.Option(min=0, help="processes that read images for a cell, with --workers 1")] = 0,
    data_root: Annotated[Path | None, typer.Option(help="where prepared data sets lie")] = None,
    out: Annotated[Path, typer.Option(help="where the run writes, and resumes from")] = Path("runs"),
    time_limit: Annotated[
        str | None,
        typer.Option(
            help="like 9m: first what will end in time, then what is gone on with later: it stops with its state saved"
        ),
    ] = None,
    order: Annotated[
        plan.Order, typer.Option(help="suite: as listed; pairs: what comparisons with the reference need first")
    ] = plan.Order.suite,
    with_profile: Annotated[
        bool, typer.Option("--profile/--no-profile", help="measure what the trained models cost, in turns")
    ] = True,
    tensorboard: Annotated[
        bool, typer.Option("--tensorboard", help="log losses and results to OUT/tensorboard while cells train")
    ] = False,
    list_models: Annotated[
        bool, typer.Option("--list-models", callback=_list_models, is_eager=True, help="show every model, run nothing")
    ] = False,
    list_only: Annotated[bool, typer.Option("--list", help="show the cells and their state, run nothing")] = False,
    publish: Annotated[
        bool, typer.Option("--publish", help="copy the finished records to results/ and redraw reports/")
    ] = False,
) -> None:
    """Run a suite: every model on every data set that is here, then profile them and draw the figures.

    Cells that are finished in --out are not run again, and an interrupted one goes on from its last epoch. SIGTERM
    stops a run as its time limit does: with the state of what runs saved after its epoch, what is left listed, exit 0.
    """
    before = source_at_start()
    compute_with(arithmetic)
    limits = _limits(time_limit)
    root = catalogue.data_root(data_root)
    loaded = suites.load(suite, root)
    if loaded.latency is not None and not list_only and (why := _unknown_source(before)) is not None:
        say(f"{why}: merge will refuse these records for results/; python -m benchmarks.bundle makes a copy that knows")
    for name in dataset or ():
        catalogue.get(name, root)
    tier = tier or _default_tier(loaded, device)
    if publish:
        from benchmarks.report.draw import GATE

        changed = {"--epochs": epochs, "--tile": tile, "--weights": weights}
        if given := [name for name, value in changed.items() if value is not None]:
            raise RequestError(f"--publish: {given[0]} makes other trainings than the tier's; leave one of the two out")
        if loaded.results_of(tier) == GATE:
            raise RequestError(
                "--publish: the gate's baseline is kept by benchmarks.compare --update-baseline --reason"
            )
    names, absent = _available(loaded.datasets_of(tier), dataset, root)
    cells = loaded.cells(
        tier,
        datasets=names,
        select=model or (),
        folds=fold or None,
        seeds=seed or None,
        epochs=epochs,
        tile=Tile(size=tile, overlap=tile // 4) if tile else None,
        split=_splits(split or (), names, root),
        root=root,
    )
    if weights is not None:
        cells = _from_weights(cells, weights)
    where = pick_device(device)
    cells = [cell.model_copy(update={"device_class": device_class(where)}) for cell in cells]
    cells = plan.in_order(cells, order, (loaded.models[0].model, loaded.reference))
    if not list_only:
        preflight.require_out(out, cells)
        preflight.require_temporary()
    for line in absent:
        console.print(line, soft_wrap=True, highlight=False)
    _check_extras(cells, explicit=bool(model))
    logs = Logs(out) if tensorboard else None
    data = _open(names, root)

    import torch

    from benchmarks import runner

    all_threads = torch.get_num_threads()  # before a cell in this process has set its own
    console.print(f"suite {suite}, tier {tier}: {len(cells)} cells on {where}, {out}/", highlight=False)
    for line in [] if list_only else runner.set_damaged_aside(cells, out):
        console.print(line, soft_wrap=True, highlight=False)
    done = {cell: runner.finished(cell, out, data[cell.dataset]) for cell in cells}
    if list_only:
        _show_states(cells, out, {c for c, r in done.items() if r is not None})
        return
    _say_what_was_computed_otherwise([r for r in done.values() if r is not None], threads)
    context.with_resource(running.marked(out, say))
    _evaluate_again([r for r in done.values() if r is not None], out, root)
    todo = [cell for cell in cells if done[cell] is None]
    if publish and todo and before.dirty is not False:
        raise RequestError("--publish: the source differs from its commit, or is no clone; commit first, then run")
    file = None if weights is None else str(weights)
    wanted = [(c.model, c.scale, c.variant, c.image_size, file or c.recipe.weights) for c in todo]
    with preflight.Libraries(wanted) as libraries:
        if todo:
            preflight.require_operators()
            preflight.require_cache(data.values())
        preflight.require_figure()
        libraries.require()
    timed = True
    if loaded.latency is not None and not model:
        timed = _latency(loaded, next(iter(data), None), where, root, out, limits)
    at_once = workers or (1 if loaders else _default_workers(where, threads, len(todo)))
    if loaders and at_once != 1:
        raise RequestError(f"--loaders {loaders} goes with --workers 1: processes of cells start none of their own")
    if todo and isinstance(at_once, int) and (free := host.memory()) < at_once * preflight.CELL_BYTES:
        say(f"{free / 2**20:,.0f} MiB of memory are left for {at_once} cells at a time, which may take 2,048 each")
    jobs = {cell: runner.Job(cell, root, out, str(where), threads, loaders, weights, before=before) for cell in todo}
    several = where.type == "cuda" and len(todo) > 1 and at_once != 1
    with mps.service(say) if several else contextlib.nullcontext(False) as beside:
        if beside and isinstance(at_once, GpuRoom):
            at_once.beside_each_other()
        elif beside and isinstance(at_once, int) and at_once > mps.MOST_PROCESSES:
            say(
                f"--workers {at_once}: CUDA's multi-process service takes {mps.MOST_PROCESSES} cells at a time; those "
                "beyond may fail, and the same command runs them again"
            )
        left = _run(jobs, data, at_once, limits, [r for r in done.values() if r is not None], logs)
    stored = {cell: load(CellPaths.of(out, cell)) for cell in cells if cell not in left}
    ended_well = [cell for cell, it in stored.items() if it.run.status == "ok"]
    if left:
        console.print(f"not profiled: the models of a data set are timed together, and {len(left)} cells are left")
    elif with_profile:
        _profile(ended_well, data, out, where, all_threads, loaded.reference, full=tier != "quick", limits=limits)

    records = [load(CellPaths.of(out, cell)) for cell in stored]
    if records and not limits.asked and time.monotonic() < limits.deadline + _REPORT_S / 2:
        from benchmarks.report import budget, draw, tables
        from benchmarks.report.rows import belonging

        # Single trainings take their spread from what is published; who is trained to the end, from the budget study.
        folders = dict.fromkeys((loaded.results_of(tier), "", budget.BUDGET))
        published = belonging(records, [one for folder in folders for one in scan(RESULTS / folder)], say)
        draw.write(
            records,
            out / "report",
            beside_published=loaded.results == draw.PUBLISHED,
            published=published,
            timed=out,
        )
        tables.print_tables(records, published)
        console.print(f"figure and tables: {out / 'report'}/", highlight=False)
    elif records:
        console.print("no time is left for figure and tables; the same command draws them")
    if publish:
        # What diverged belongs to what was found: a mean of the others is one of the lucky.
        ended = [cell for cell, it in stored.items() if it.run.status in ("ok", "diverged")]
        _publish(ended, out, RESULTS / loaded.results_of(tier), _latency_path(out, loaded, where))
    _say_what_is_left(left, out)
    failed = [cell for cell, it in stored.items() if it.run.status != "ok"]
    for cell in failed:
        record = stored[cell].run
        say(Text.assemble((record.status, "red"), f" {cell.name} on {cell.dataset}: {record.error}"))
    if failed or not timed:
        raise typer.Exit(1)


def _unknown_source(before: SourceState) -> str | None:
    """Why nobody could say later which source made a record; None where one can."""
    if before.commit is None:
        return "the source has no known commit (no .git of this project, no .source.json that fits)"
    return None if before.dirty is False else "the source differs from its commit"


def _default_tier(suite: suites.Suite, device: str) -> str:
    """The suite's first tier without a GPU, its last with one."""
    if device.startswith("cpu") or len(suite.tiers) == 1:
        return next(iter(suite.tiers))
    import torch

    return list(suite.tiers)[-1] if torch.cuda.is_available() else next(iter(suite.tiers))


def _available(listed: Sequence[str], asked: list[str] | None, root: Path) -> tuple[list[str], list[str]]:
    """Data sets that take part, and a line for each that is not prepared.

    What was asked for by name must be there, and else one at least: RequestError otherwise.
    """
    from benchmarks.datasets.prepared import is_prepared

    names, absent = [], []
    for name in asked or listed:
        spec = catalogue.get(name, root)
        if spec.embedded or is_prepared(name, root):
            names.append(name)
            continue
        command = f"python -m benchmarks.datasets prepare {name} --from PATH"
        if asked:
            raise RequestError(f"data set {name!r} is not prepared under {root}; prepare it: {command}")
        absent.append(f"left out: {name} is not prepared; to add it: {command}")
    if not names:
        missing = "; ".join(line.removeprefix("left out: ").replace("to add it", "prepare it") for line in absent)
        raise RequestError(f"no data set of this suite is prepared under {root}: {missing}")
    return names, absent


def _splits(asked: Sequence[str], names: Sequence[str], root: Path) -> dict[str, str]:
    """The list of each data set, from lists asked for; RequestError unless each of `names` has one of them."""
    from benchmarks.datasets.splits import titles

    if not asked:
        return {}
    of = {name: titles(name, root) for name in names}
    for title in asked:
        if not any(title in of[name] for name in names):
            known = [t for name in names for t in of[name]]
            raise RequestError(f"--split {title}: no data set of this run has it; {nearest(title, known)}")
    chosen = {name: [title for title in asked if title in of[name]] for name in names}
    for name, its in chosen.items():
        if len(its) != 1:
            lists = f"--split names {len(its)} lists of {name}" if its else f"--split names no list of {name}"
            raise RequestError(f"{lists}; give one of each data set, or narrow the run with --dataset")
    return {name: title for name, (title,) in chosen.items()}


def _from_weights(cells: list[Cell], file: Path) -> list[Cell]:
    """The cells, started from a weights file whose digest they name; RequestError for models that load none."""
    from benchmarks.models import MODELS, get

    without = sorted({cell.name for cell in cells if not get(cell.model).weights_files})
    if without:
        able = ", ".join(name for name, spec in MODELS.items() if spec.weights_files)
        raise RequestError(
            f"--weights: {', '.join(without)} load no weights file; narrow the run with --model to {able}"
        )
    if small := sorted({cell.name for cell in cells if cell.variant == "near_start"}):
        raise RequestError(
            f"--weights: {', '.join(small)} start from random weights; ask for the model without variant"
        )
    try:
        digest = hashlib.sha256(file.read_bytes()).hexdigest()
    except OSError as e:
        raise RequestError(f"--weights {file}: {e.strerror or e}") from None
    recipes = [cell.recipe.model_copy(update={"weights": f"sha256:{digest}"}) for cell in cells]
    return [cell.model_copy(update={"recipe": recipe}) for cell, recipe in zip(cells, recipes, strict=True)]


def _check_extras(cells: list[Cell], explicit: bool) -> None:
    """RequestError with the install command when a model's library or pretrained backbone is missing.

    A run of hours that ends without some of its models would mislead, so nothing starts then.
    """
    from benchmarks.extras import missing_weights
    from benchmarks.models import missing_extras

    if messages := missing_extras(c.model for c in cells):
        raise RequestError("; ".join(messages) + ("" if explicit else "; or narrow the run with --model"))
    for cell in cells:
        if (message := missing_weights(cell.scale, cell.recipe.weights)) is not None:
            raise RequestError(message)


def _open(names: list[str], root: Path) -> dict[str, PreparedDataset]:
    from benchmarks.datasets.prepared import ensure

    def say(line: str) -> None:
        console.print(line, soft_wrap=True, highlight=False, markup=False)

    return {name: ensure(name, root, say) for name in names}


def _show_states(cells: list[Cell], out: Path, finished: set[Cell]) -> None:
    rows = []
    for cell in cells:
        state = "finished" if cell in finished else "to run"
        if cell not in finished and CellPaths.of(out, cell).checkpoint.exists():
            state = "interrupted"
        row = (cell.dataset, cell.name, cell.scale, cell.fold, cell.seed, cell.image_size, cell.recipe.epochs)
        rows.append((*row, cell.id[:8], state))
    print_table(("data set", "model", "scale", "fold", "seed", "px", "epochs", "id", "state"), rows)


def _latency(
    suite: suites.Suite, dataset: str | None, device: torch.device, root: Path, out: Path, limits: Limits
) -> bool:
    """Measure what the suite wants measured before anything is trained, by the profile command in a process of its own.

    It is there once it is complete, in `out`/_latency, and then not measured again; what a limit cut is. Of a run's
    time limit it gets what its own limit asks for, or what is left with room for what precedes the timing, from half of
    that limit on. What was measured stays where the run is asked to stop meanwhile. False where the command failed.
    """
    phase, path = suite.latency, _latency_path(out, suite, device)
    if phase is None or dataset is None:
        return True
    if _is_complete(path):
        if odd := _asked_otherwise(path, suite, dataset):
            say(f"latency not measured: {path} holds what was asked of another {odd}; move it away")
        return True
    left, limit = limits.deadline - time.monotonic(), plan.seconds(phase.limit)
    granted = min(limit, left / _LATENCY_SLACK)
    if limits.stopping() or granted < limit / 2:
        console.print(f"latency not measured: it gets {phase.limit}, and {left:.0f} s are left", highlight=False)
        return True
    names = [m.model if v == "default" else f"{m.model}:{v}" for m in suite.models for v in m.variants]
    command = [sys.executable, "-m", "benchmarks.profile", "--device", str(device), "--dataset", dataset]
    command += ["--scale", phase.scale, "--image-size", str(phase.image_size), "--reference", suite.reference]
    command += ["--data-root", str(root), "--time-limit", f"{granted:.0f}s", "--out", str(path), "--images", "4"]
    command += ["--runs", str(phase.rounds), "--warmup", str(phase.warmup), "--min-seconds", "0"]
    command += [part for name in names for part in ("--model", name)]
    command += [part for form in phase.forms for part in ("--form", form)]
    for option in ("--batch-size", "--latency-batch-size"):
        command += [part for size in phase.batch_sizes for part in (option, str(size))]
    short = f", in {granted:.0f} s instead of {phase.limit}" if granted < limit else ""
    what = f"{len(names)} models at scale {phase.scale}, {phase.image_size} px{short}"
    console.print(f"latency of {what}", highlight=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    # What it counts before it times knows no limit.
    ended = _within(command, limits, _LATENCY_SLACK * granted)
    if not _is_complete(path):
        failed = ended.startswith("exit code")
        more = "" if failed else "; the same command goes on with it"
        say(Text.assemble(("latency is not complete", "red"), f": {ended}{more}"))
        return not failed
    return True


def _is_complete(path: Path) -> bool:
    try:
        return bool(json.loads(path.read_bytes()).get("complete"))
    except (OSError, ValueError, AttributeError):  # of a damaged file all is measured again
        return False


def _asked_otherwise(path: Path, suite: suites.Suite, dataset: str) -> str | None:
    """In what the request differs that a complete file answers: the suite was another then. None where in nothing."""
    content, phase = json.loads(path.read_bytes()), suite.latency
    assert phase is not None
    wanted = {
        "dataset": dataset,
        "scale": phase.scale,
        "image_size": phase.image_size,
        "reference": suite.reference,
    }
    for name, value in wanted.items():
        if content.get(name) != value:
            return name
    asked = content.get("asked", {})  # a file of an earlier version does not say
    for name, its in (
        ("forms", list(phase.forms)),
        ("batch_sizes", list(phase.batch_sizes)),
        ("latency_batch_sizes", list(phase.batch_sizes)),
        ("rounds", phase.rounds),
        ("warmup", phase.warmup),
    ):
        if asked.get(name, its) != its:
            return name.replace("_", " ")
    names = {m.model if v == "default" else f"{m.model}:{v}" for m in suite.models for v in m.variants}
    entries = [*content.get("models", {}), *content.get("not_measured", {})]  # NAME, or NAME and its form
    told = {entry.partition(" ")[0] for entry in entries}
    return "list of models" if entries and names - told else None


def _within(command: Sequence[str], limits: Limits, seconds: float) -> str:
    """Run a command until it ends, or `limits` or its `seconds` do; how it ended."""
    child = subprocess.Popen(command)
    until = time.monotonic() + seconds
    try:
        while child.poll() is None:
            if limits.stopping():
                return "ended, since the run stops"
            if time.monotonic() >= until:
                return "ended, it took too long"
            limits.check()
            time.sleep(_LOOK_S)
    finally:
        if child.poll() is None:
            child.terminate()
            try:
                child.wait(_END_S)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()
    return "its time limit cut it" if child.returncode == 0 else f"exit code of the command: {child.returncode}"


_LOOK_S = 0.2  # how often the limits are looked at while another command runs
_END_S = 3.0  # what it gets to end by itself
_LATENCY_SLACK = 1.5  # of its limit


def _latency_path(folder: Path, suite: suites.Suite, device: torch.device) -> Path:
    return folder / latency_files.FOLDER / f"{suite.name}-{device_class(device) or 'cpu'}.json"


def _default_workers(device: torch.device, threads: int, jobs: int) -> int | GpuRoom:
    """On a CPU, a worker for every `threads` cores that has 2 GB of free memory; on a GPU, as `GpuRoom` measures."""
    most = max(1, min(host.cores() // threads, host.memory() // preflight.CELL_BYTES, jobs))
    if device.type != "cuda":
        return most if device.type == "cpu" else 1
    import torch

    return GpuRoom(most, lambda: torch.cuda.mem_get_info(device)[0])


_IN_TURNS = 4  # processes that take turns on a GPU: with 17 it did no more images a second than with 4


class GpuRoom:
    """How many cells a GPU takes at a time: one, until its first epoch has shown what it takes; then as memory allows.

    Where they take turns, more than `_IN_TURNS` would only all end later (docs/cost-and-time.md).

    Args:
        most: what cores and host memory allow.
        free: free memory of the GPU in bytes, now.
    """

    def __init__(self, most: int, free: Callable[[], int]) -> None:
        self._most, self._free = most, free
        self._in_turns = True
        self._before = free()
        self._now = 1

    def __call__(self) -> int:
        return self._now

    def first_epoch(self) -> None:
        """A cell alone on the GPU has trained for an epoch: its memory, with half as much again, is what each gets."""
        taken = max(self._before - self._free(), 1)
        most = min(self._most, _IN_TURNS) if self._in_turns else self._most
        self._now = max(1, min(most, int(self._before / (1.5 * taken))))

    def beside_each_other(self) -> None:
        """Cells do not take turns: CUDA's multi-process service runs, which takes so many processes and no more."""
        self._in_turns = False
        self._most = min(self._most, mps.MOST_PROCESSES)


def _limits(time_limit: str | None) -> Limits:
    """Limits of this run, counted from the start of the process; signals ask them to stop."""
    limits = Limits()
    if time_limit is not None:
        import psutil

        age = time.time() - psutil.Process().create_time()
        limits = Limits(time.monotonic() - age + plan.seconds(time_limit) - _REPORT_S)
    _heed_signals(limits)
    return limits


def _heed_signals(limits: Limits) -> None:
    """Ctrl-C ends the run now; SIGTERM, and SIGHUP of a terminal that is closed, once the epoch's state is saved."""
    terminals = [stream for stream in (1, 2) if os.isatty(stream)]

    def stop(number: int, _: object) -> None:
        if number != signal.SIGTERM:  # what is printed from now on has no reader, and would end the run
            nowhere = os.open(os.devnull, os.O_WRONLY)
            for stream in terminals:
                os.dup2(nowhere, stream)
        if not limits.asked:
            name = signal.Signals(number).name
            with contextlib.suppress(OSError):  # not by print, which may be what was interrupted
                os.write(2, f"{name}: stopping as soon as the state of what runs is saved\n".encode())
        limits.stop()

    for name in ("SIGTERM", "SIGHUP"):
        # What is ignored from the start is meant to be, as by nohup.
        if (number := getattr(signal, name, None)) is not None and signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, stop)
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, lambda *_: limits.interrupt())


_REPORT_S = 10.0  # what drawing and leaving is taken to last


def _run(
    jobs: dict[Cell, Job],
    data: dict[str, PreparedDataset],
    workers: int | GpuRoom,
    limits: Limits,
    known: list[RunRecord],
    logs: Logs | None,
) -> list[Cell]:
    """Run what is not finished, with progress; returns the cells that are left when the time is up.

    Args:
        known: finished cells of this folder, from which is estimated what others take.
        logs: TensorBoard's, where they are wanted.
    """
    from benchmarks import runner

    if not jobs:
        console.print("nothing to train: every cell is finished")
        return []
    iterations = {cell: runner.training_iterations(cell, data[cell.dataset]) for cell in jobs}
    images = {cell: n * cell.recipe.batch_size for cell, n in iterations.items()}
    costs, left = plan.Costs(), list[Cell]()
    for record in known:
        if record.provenance.device == next(iter(jobs.values())).device:
            costs.ended(record)
    with RunProgress(console, len(jobs), sum(iterations.values())) as progress:
        running, most = set[Cell](), dict[Cell, int]()

        def tell(event: Started[Job] | Progress[Job] | Ended[Job]) -> None:
            job = event.job
            if isinstance(event, Ended):
                running.discard(job.cell)
            if isinstance(event, Started):
                running.add(job.cell)
                most.update({cell: max(most.get(cell, 0), len(running)) for cell in running})
                progress.start(job, job.cell.name, job.cell.dataset, iterations[job.cell])
            elif isinstance(event, Progress):
                what, facts = event.event
                if what == "epoch":
                    costs.epoch(job.cell, facts["rate"])
                    if logs is not None:
                        logs.epoch(job.cell, facts["epoch"], facts["losses"], facts["rate"])
                    if isinstance(workers, GpuRoom) and workers() == 1:
                        workers.first_epoch()
                progress.handle(job, event.event)
            elif event.cause == "stopped":
                left.append(job.cell)
                progress.end(job, Text.assemble(("stopped", "yellow"), f" {event.how or 'its state is saved'}"))
            else:
                paths = CellPaths.of(job.runs, job.cell)
                if event.cause == "done":
                    record = read_record(paths.record, RunRecord)
                else:
                    status: Status = "out_of_memory" if event.cause == "out_of_memory" else "failed"
                    record = runner.record_death(job, status, event.how)
                if record.beside not in (None, most[job.cell]):  # its own process could not know
                    record = record.model_copy(update={"beside": most[job.cell]})
                    write_record(paths.record, record)
                costs.ended(record)
                if logs is not None:
                    logs.end(record)
                progress.end(job, _outcome(record))

        # What was interrupted first: it is nearer to its end.
        done = {cell: _epochs_done(CellPaths.of(job.runs, cell).checkpoint) for cell, job in jobs.items()}
        begun = sorted(jobs, key=lambda cell: done[cell] is None)
        behind = {cell: epochs for cell, epochs in done.items() if epochs is not None}
        fitting = (jobs[cell] for cell in plan.those_that_fit(begun, images, costs, limits, left, behind))
        # With a deadline in processes of their own, since these can be ended in the middle of an epoch; processes of
        # cells start none of their own, though.
        loading = any(job.loaders for job in jobs.values())
        alone = workers == 1 and (limits.deadline == math.inf or loading)
        executor = Local(runner.run_job, limits) if alone else Processes(runner.run_job, workers, limits)
        seen = set[Cell]()

        def noted() -> Iterator[Job]:
            for job in fitting:
                seen.add(job.cell)
                yield replace(job, beside=workers if isinstance(workers, int) else workers())

        executor.run(noted(), tell)
    if logs is not None:
        logs.close()
    return [cell for cell in jobs if cell in left or cell not in seen]


def _epochs_done(checkpoint: Path) -> int | None:
    """Epochs that a saved state has behind it, for an estimate; None without one, 0 where it does not say."""
    from safetensors import SafetensorError, safe_open

    if not checkpoint.exists():
        return None
    try:
        with safe_open(str(checkpoint), framework="numpy") as f:
            return int((f.metadata() or {})["epoch"])
    except (OSError, SafetensorError, KeyError, ValueError):  # training it says what is wrong, and begins anew
        return 0


def _say_what_is_left(left: list[Cell], out: Path) -> None:
    if not left:
        return
    console.print(f"{len(left)} cells are left; the same command goes on with them:", highlight=False)
    for cell in left:
        state = "interrupted" if CellPaths.of(out, cell).checkpoint.exists() else "not begun"
        console.print(f"  {cell.name} on {cell.dataset}, fold {cell.fold}, seed {cell.seed}: {state}", highlight=False)


def _say_what_was_computed_otherwise(records: list[RunRecord], threads: int) -> None:
    """Finished cells stay as they are; where they were computed in another way than is asked for now, that is said."""
    asked = arithmetic_in_use() or "native"
    for what, odd in (
        (f"in other arithmetic than {asked}", [r for r in records if (r.provenance.arithmetic or "native") != asked]),
        (f"with other than {threads} threads", [r for r in records if r.provenance.threads != threads]),
    ):
        if cpu := [r for r in odd if r.cell.device_class is None]:
            say(f"{len(cpu)} finished cells were trained {what}, and stay so: another --out trains them again")


def _evaluate_again(records: list[RunRecord], out: Path, root: Path) -> None:
    """Bring records of another evaluator up to date, from the detections beside them."""
    from benchmarks.metrics import EVALUATOR_VERSION
    from benchmarks.metrics.records import update

    old = [r for r in records if r.status == "ok" and r.fingerprint.evaluator != EVALUATOR_VERSION]
    for record in old:
        update(record, CellPaths.of(out, record.cell), root)
    if old:
        console.print(f"{len(old)} finished cells evaluated again: the evaluator is another")


def _outcome(record: RunRecord) -> Text | str:
    if record.status != "ok" or record.metrics is None:
        return Text.assemble((record.status, "red"), f" {record.error}")
    m = record.metrics
    AP50, AP = ("-" if value is None else f"{value:.3f}" for value in (m.AP50, m.AP))  # a test part may have no box
    low, high = m.AP50_interval or (None, None)
    interval = f" [{low:.3f}, {high:.3f}]" if low is not None else ""
    return f"AP50 {AP50}{interval}, AP {AP}"


def _profile(
    cells: list[Cell],
    data: dict[str, PreparedDataset],
    out: Path,
    device: torch.device,
    threads: int,
    reference: str,
    *,
    full: bool,
    limits: Limits,
) -> None:
    """Profile the first fold and seed of every model, all models of a data set in one session."""
    from benchmarks.cost import cell_profiles as profiles
    from benchmarks.cost.reporting import reporting
    from benchmarks.trained import load_trained

    plan = profiles.FULL if full else profiles.QUICK
    for name, prepared in data.items():
        first: dict[str, Cell] = {}
        for cell in cells:
            if cell.dataset == name and CellPaths.of(out, cell).weights.exists():
                first.setdefault(cell.name, cell)
        gone = {cell.name for cell in cells if cell.dataset == name} - set(first)
        if gone:
            say(f"not profiled on {name}, since their weights are not in {out}: {', '.join(sorted(gone))}")
        chosen = list(first.values())
        sessions: set[str] = set()
        done = [profiles.profiled(load(CellPaths.of(out, cell)), sessions, plan) for cell in chosen]
        if not chosen or (all(done) and len(sessions) == 1):
            continue
        needed = sum(_profile_seconds(load(CellPaths.of(out, cell)).run, full) for cell in chosen)
        if limits.stopping() or time.monotonic() + needed > limits.deadline:
            console.print(f"not profiled on {name}: it takes about {needed:.0f} s; the same command will do it")
            continue
        console.print(f"profiling {len(chosen)} models on {name}; --no-profile leaves it out", highlight=False)
        with reporting(console) as report:

            def reported(what: str, done: int, total: int, report: ProgressCallback = report) -> None:
                limits.check()
                if limits.asked:
                    raise Stopped
                report(what, done, total)

            try:
                profiles.profile_cells(
                    chosen,
                    prepared,
                    runs=out,
                    device=device,
                    reference=reference,
                    load_model=lambda cell, prepared=prepared: load_trained(cell, prepared, out, device),  # type: ignore[misc]
                    plan=plan,
                    threads=threads,
                    report=reported,
                )
            except Stopped:
                say(f"profiling on {name} stopped; the same command goes on with it")


def _profile_seconds(run: RunRecord, full: bool) -> float:
    """What profiling a model is taken to last, from what detecting one image took after its training."""
    image = run.timings_s["detect"] / max(run.metrics.images if run.metrics else 1, 1)
    return 30 + 150 * image if full else 8 + 120 * image


def _require_publishable(stored: list[Stored]) -> None:
    """RequestError names the records and profiles of which nobody could say which source made them."""
    if bad := [one for it in stored for one in it.unpublishable]:
        (path, why), more = bad[0], f" and {len(bad) - 1} more" if len(bad) > 1 else ""
        raise RequestError(f"nothing is published: {path}: {why}{more}; commit, move these away and run again")


def _publish(cells: list[Cell], out: Path, results: Path, timed: Path) -> None:
    """Copy records, detections and profiles to `results`, and the latencies of the suite, in the file `timed`, to
    results/_latency; redraw reports/ when they belong there.
    """
    from benchmarks.report import budget, draw

    if not RESULTS.is_dir():
        raise RequestError("--publish writes to results/ of a clone: run it from the repository's root")
    _require_publishable([load(CellPaths.of(out, cell)) for cell in cells])
    measured = latency_files.read(timed) if timed.exists() else None
    if measured is not None and (why := measured.provenance.unpublishable) is not None:
        raise RequestError(f"nothing is published: {timed}: {why}; commit, move it away and run again")
    together = {RESULTS, RESULTS / budget.BUDGET}  # read as one, in which no cell may stand twice
    for other in together - {results} if results in together else ():
        if twice := [path for cell in cells if (path := CellPaths.of(other, cell).record).exists()]:
            raise RequestError(f"nothing is published: {twice[0]} is a record of the same cell; remove it first")
    for cell in cells:
        here, there = CellPaths.of(out, cell), CellPaths.of(results, cell)
        again = there.record.exists() and read_record(there.record, RunRecord).digest == load(here).run.digest
        if not again:  # first, so that the same command goes on with what an interruption leaves
            there.record.unlink(missing_ok=True)
        for source, target in (
            (here.detections, there.detections),
            (here.val_detections, there.val_detections),
            (here.profile, there.profile),
            (here.record, there.record),
        ):
            if source.exists():
                write_atomic(target, source.read_bytes())
            elif not again:  # what lies there is of an earlier training of the cell
                target.unlink(missing_ok=True)
    if measured is not None and (line := latency_files.join(measured, RESULTS)[1]) is not None:
        say(line)
    if results in (RESULTS, RESULTS / draw.PUBLISHED, RESULTS / budget.BUDGET):
        draw.write_all(RESULTS, REPORTS)
    console.print(f"published {len(cells)} records to {results}/", highlight=False)


if __name__ == "__main__":
    run_app(app)
