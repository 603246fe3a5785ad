"""What a model costs: parameters, multiply-accumulates, memory, latency, throughput, energy.

    python -m benchmarks.profile --model canet --model fasterrcnn_fpn --scale nano --image-size 160

Models are timed in turns within one process, in random order within every round, on the same images, so that
drift of the machine hits all alike; speeds are compared as ratios paired within rounds. Nothing is trimmed.
docs/cost-and-time.md says what is measured how, and which rules of the field are not obeyed.
"""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich import box
from rich.table import Table
from rich.text import Text

from benchmarks.cells import LEAST_PX, digest_of
from benchmarks.cli import console, run_app, say
from benchmarks.cost.clock import NETWORK_ON_GPU, PHASES
from benchmarks.cost.engines import Form
from benchmarks.cost.reporting import reporting
from benchmarks.cost.session import TIME_IS_UP, Cost, Kept, Plan, ProfiledModel, Step, as_json, prepare, session
from benchmarks.devices import pick_device, provenance, source_at_start, source_digest
from benchmarks.errors import RequestError
from benchmarks.models import split_name
from benchmarks.plan import seconds as parse_seconds
from benchmarks.preflight import require_files
from benchmarks.store import CellPaths, load, now, write_atomic

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from benchmarks.cells import Cell

# Images of the training step whose memory is measured.
TRAINING_BATCH = 8

# Of a time limit, what preparing forms (compilation above all) may take.
PREPARING = 0.5


app = typer.Typer(add_completion=False, rich_markup_mode="rich")


@app.command()
def main(
    model: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Model, or MODEL:VARIANT; repeat it. Default: those of --suite."),
    ] = None,
    suite: Annotated[str, typer.Option(help="Suite whose models are taken where none is named.")] = "small_defects",
    form: Annotated[
        list[str] | None,
        typer.Option(
            metavar="ENGINE",
            help="ENGINE or ENGINE:PRECISION in which every model runs; repeat it. Engines: torch (default), deploy "
            "(CANet, YOLO), compile, graphs (CUDA), onnx (CPU); precisions: fp32 (default), tf32 (CUDA), bf16, "
            "fp16 (CUDA).",
        ),
    ] = None,
    precision: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Precision of the forms that name none; repeat it. Default: fp32."),
    ] = None,
    scale: Annotated[str, typer.Option(help="Scale of the models.")] = "nano",
    image_size: Annotated[
        int, typer.Option(help="Longer side in pixels that images are resized to.", min=LEAST_PX)
    ] = 160,
    dataset: Annotated[str, typer.Option(help="Set that the images come from.")] = "synthetic_small",
    images: Annotated[int, typer.Option(help="How many of its images.", min=1)] = 8,
    trained: Annotated[
        Path | None, typer.Option(help="Folder of runs to take trained weights and test images from. Default: random.")
    ] = None,
    data_root: Annotated[Path | None, typer.Option(help="Where prepared sets are.")] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda or cuda:N.")] = "cpu",
    threads: Annotated[int | None, typer.Option(help="CPU threads. Default: torch's own.", min=1)] = None,
    runs: Annotated[int, typer.Option(help="Timed rounds at least.", min=1)] = 200,
    min_seconds: Annotated[float, typer.Option(help="Seconds timed per model at least.", min=0.0)] = 10.0,
    warmup: Annotated[int, typer.Option(help="Warm-up rounds at least.", min=0)] = 50,
    batch_size: Annotated[
        list[int] | None,
        typer.Option(metavar="N", help="Batch size to measure throughput at; repeat it. Default: 1 and 16.", min=1),
    ] = None,
    latency_batch_size: Annotated[
        list[int] | None,
        typer.Option(metavar="N", help="Images at a time to measure latency at; repeat it. Default: 1.", min=1),
    ] = None,
    reference: Annotated[str | None, typer.Option(help="Entry that ratios are to. Default: the first.")] = None,
    seed: Annotated[int, typer.Option(help="Of random weights and of the order.")] = 0,
    time_limit: Annotated[
        str | None,
        typer.Option(help="Like 3m: timings share what is left of it; forms not ready by half are left out."),
    ] = None,
    counter: Annotated[
        str | None, typer.Option(help="fvcore: print its count, and what it does not count, beside ours; nothing else.")
    ] = None,
    rewrite: Annotated[
        Path | None,
        typer.Option(help="Folder of records to complete with the parameters that run in evaluation; nothing else."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", "--json", help="JSON file for everything, raw samples included, written as it comes."),
    ] = None,
) -> None:
    """What models cost, in turns in one process: counts, memory, latency by phase, throughput, energy.

    The number of proposals, and with it the time of two-stage models, depends on the weights: what is quoted
    comes from trained ones (--trained, or the profiles that benchmarks.run makes). With --out, what a command has
    measured until it was interrupted is kept beside that file, and the same command goes on from there; it also does
    again what a time limit cut.
    """
    source_at_start()
    began, deadline = now(), math.inf if time_limit is None else time.monotonic() + parse_seconds(time_limit)
    from benchmarks import models as registry
    from benchmarks import suites
    from benchmarks.datasets.catalogue import data_root as default_root
    from benchmarks.datasets.catalogue import get as get_dataset

    root = default_root(data_root)
    if counter not in (None, "fvcore"):
        raise RequestError(f"unknown --counter {counter!r}; there is fvcore, beside our own")
    if counter is not None and (out is not None or rewrite is not None):
        raise RequestError("--counter shows a table, and writes nothing: leave out --out and --rewrite")
    if rewrite is not None:
        if not rewrite.is_dir():
            raise RequestError(f"--rewrite {rewrite}: no such folder")
        _complete(rewrite, root)
        return
    of_suite = suites.load(suite)
    first_tier = next(iter(of_suite.tiers))
    listed = [m if v == "default" else f"{m}:{v}" for m, v in of_suite.selected((), first_tier)]
    absent = {} if model else {n: why for n in listed if (why := registry.missing_extra(n.partition(":")[0]))}
    for name, why in absent.items():
        console.print(f"{name} is left out: {why}", highlight=False)
    names = _distinct(model or [name for name in listed if name not in absent])
    for base, variant in names.values():
        registry.get(base).scale(scale)
        registry.check_variant(base, variant)
        if (missing := registry.missing_extra(base)) is not None:
            raise RequestError(missing)
    classes = len(get_dataset(dataset, root).classes)
    wanted = {f"{shown} {one}".strip(): (shown, one) for shown in names for one in _forms(form, precision, device)}
    reference = reference or next(iter(wanted))
    if reference in names:  # of a model the first form that is asked for
        reference = next(entry for entry, (shown, _) in wanted.items() if shown == reference)
    if reference not in wanted:
        raise RequestError(f"the reference {reference!r} is not among what is measured: {', '.join(wanted)}")
    if out is not None:
        require_files(out.parent)

    import torch

    target = pick_device(device)
    if threads is not None:
        torch.set_num_threads(threads)
    cells: dict[str, Cell] = {}
    with console.status("building"):
        if trained is None:
            samples = _samples(dataset, root, None, max(images, TRAINING_BATCH))
            built = {name: _random(*pair, classes, image_size, scale, seed) for name, pair in names.items()}
        else:
            cells = {name: _trained_cell(trained, dataset, *pair, scale, image_size) for name, pair in names.items()}
            samples = _samples(dataset, root, next(iter(cells.values())), max(images, TRAINING_BATCH))
            built = {name: _load(cell, dataset, root, trained) for name, cell in cells.items()}
    inputs = [image for image, _ in samples[:images]]
    if counter is not None:
        _beside_fvcore(built, inputs)
        return
    plan = Plan(
        runs=runs,
        warmup=warmup,
        min_seconds=min_seconds,
        latency_batches=tuple(dict.fromkeys(latency_batch_size or (1,))),
        batch_sizes=tuple(dict.fromkeys(batch_size or (1, 16))),
        seconds=max(min_seconds / 5, 0.2),
        count_images=images,
        seed=seed,
    )
    steps = {name: Step(samples[:TRAINING_BATCH], _adam) for name in names}
    weights = "random" if trained is None else str(trained)
    about = {
        "kind": "profile",
        "weights": weights,
        "cells": {name: cell.id for name, cell in cells.items()},
        "dataset": dataset,
        "image_size": image_size,
        "scale": scale,
        "images": len(inputs),
        "asked": {
            "forms": list(form or ()),
            "batch_sizes": list(plan.batch_sizes),
            "latency_batch_sizes": list(plan.latency_batches),
            "rounds": runs,
            "warmup": warmup,
        },
    }
    forms = {name: [shown, str(one)] for name, (shown, one) in wanted.items()}
    built = {name: module.to(target) for name, module in built.items()}
    made = provenance(started=began, device=target)
    trainings = [] if trained is None else [load(CellPaths.of(trained, cell)).run for cell in cells.values()]
    weights_of = [run.weights_sha256 or run.provenance.ended for run in trainings]
    where = [device, made.device_name, made.cpu, torch.get_num_threads(), made.packages]
    # What another source, data set or training gave is no part of this one.
    made_of = [source_digest(), [hashlib.sha256(image.numpy().tobytes()).hexdigest() for image in inputs], weights_of]
    definition = [about, plan.__dict__, forms, reference, where, made_of]
    before = _left(out, digest_of(definition))
    entries: dict[str, ProfiledModel] = {}
    costs: dict[str, Cost] = {}
    skipped: dict[str, str] = {}
    sessions: list[dict[str, Any] | None] = []
    timed_in: dict[str, int] = {}

    def save(more: Mapping[str, Cost], last: bool = False) -> None:
        if out is None:
            return
        so_far = {**costs, **{name: cost for name, cost in more.items() if name not in costs}}
        begun = sessions if last else [*sessions, _session_of(more)]
        # What an earlier process left of groups that were not timed anew: no saving holds less than the one before.
        others = {name: one for name, one in before["models"].items() if one["session"] >= len(begun)}
        measured = [name for name in wanted if name in so_far or name in others]
        content = {
            **about,
            "definition": digest_of(definition),
            "complete": last and not _left_out(costs, skipped, plan),
            "reference": reference,
            "sessions": [*begun, *before["sessions"][len(begun) :]],
            "provenance": made.model_copy(update={"ended": now()}).model_dump(),
            "models": {
                name: others[name]
                if name not in so_far
                else {
                    "name": wanted[name][0],
                    "label": registry.label(*names[wanted[name][0]]),
                    "weights": weights if trained is None else cells[wanted[name][0]].id,
                    "engine": entries[name].form.engine,
                    "precision": entries[name].form.precision,
                    "preparation_s": entries[name].preparation_s,
                    "session": timed_in[name],
                    **as_json(so_far[name]),
                }
                for name in measured
            },
            "not_measured": absent | {name: why for name, why in skipped.items() if name not in measured},
        }
        write_atomic(out, (json.dumps(content, indent=1) + "\n").encode())

    parts: list[Kept] = []
    with reporting(console) as report:
        groups = _groups(wanted, reference, time_limit is not None)
        for number, group in enumerate(groups):
            until = time.monotonic() + (deadline - time.monotonic()) / (len(groups) - number)
            partly = None if out is None else out.with_name(f"{out.name}.partial{number or ''}")
            parts.append(kept := Kept(partly, [*definition, number]))
            if kept.resumed:
                console.print(f"going on with {partly}: {len(kept.resumed)} measurements are there", highlight=False)
            ready, left_out = prepare(
                built,
                group,
                inputs,
                steps=steps,
                batch_sizes=sorted({1, *plan.latency_batches, *plan.batch_sizes}),
                deadline=time.monotonic() + PREPARING * (until - time.monotonic()),
                report=report,
            )
            skipped.update(left_out)
            if reference not in ready:
                raise RequestError(f"the reference cannot be measured: {reference}: {skipped[reference]}")
            entries = {**ready, **entries}
            timed_in = {**dict.fromkeys(ready, number), **timed_in}
            if costs and not set(ready) - set(costs):
                continue
            found = session(
                ready,
                inputs,
                device=target,
                plan=plan,
                reference=reference,
                deadline=until,
                kept=kept,
                report=report,
                saved=save,
            )
            sessions.append(_session_of(found))
            costs = {**found, **costs}
    costs = {name: costs[name] for name in wanted if name in costs}
    made = provenance(started=began, device=target)
    save({}, last=True)
    cut = _left_out(costs, skipped, plan)
    for kept in parts if not cut else ():
        kept.done()
    for table in _tables(costs):
        console.print(table)
    _print_uncounted(costs)
    _print_session(costs, skipped, weights, cells)
    console.print(f"{len(inputs)} images of {dataset}, {device}.", highlight=False)
    for line in cut:
        say(Text.assemble(("not complete:", "yellow"), f" {line}"))
    if out is not None:
        console.print(f"wrote {out}", highlight=False)
        if cut:
            console.print("the same command goes on with what the time limit cut", highlight=False)
    if all(cost.latency is None and not cost.batch_latency for cost in costs.values()):
        raise typer.Exit(1)


def _adam(model: nn.Module) -> torch.optim.Optimizer:
    import torch

    return torch.optim.AdamW(model.parameters())


def _forms(forms: Sequence[str] | None, precisions: Sequence[str] | None, device: str) -> list[Form]:
    """Forms that are asked for; every precision of those that name none."""
    texts = []
    for text in forms or ("torch",):
        texts += [text] if ":" in text or not precisions else [f"{text}:{one}" for one in precisions]
    return list(dict.fromkeys(Form.parse(text, device.partition(":")[0]) for text in texts))


def _groups(
    wanted: Mapping[str, tuple[str, Form]], reference: str, limited: bool
) -> list[Mapping[str, tuple[str, Form]]]:
    """What is timed in turns with each other: everything.

    Within a time limit, first what needs no preparation, so that it is there however long compilation takes; then the
    other forms, beside the reference.
    """
    slow = {name for name, (_, form) in wanted.items() if form.engine not in ("torch", "deploy")}
    if not limited or not slow or reference in slow or len(slow) == len(wanted):
        return [wanted]
    first = {name: pair for name, pair in wanted.items() if name not in slow}
    second = [name for name in wanted if name in slow or name == reference]
    # The reference's forms first: without them nothing can be said of the others in the same form.
    second.sort(key=lambda name: wanted[name][0] != wanted[reference][0])
    return [first, {name: wanted[name] for name in second}]


def _session_of(costs: Mapping[str, Cost]) -> dict[str, Any] | None:
    """How the latencies were measured: rounds, machine, settings of those at the first batch size; under
    `batch_latency` the same of each other size, by size; under `throughput_s` what each throughput was given.
    """
    first = next((cost.latency["session"] for cost in costs.values() if cost.latency is not None), None)
    others = {
        size: latency["session"]
        for cost in costs.values()
        for size, latency in cost.batch_latency.items()
        if latency is not None
    }
    if first is None:
        first = next(iter(others.values()), None)
    if first is None:
        return None
    rates = {size: s for cost in costs.values() for size, s in cost.throughput_s.items()}
    return {**first, "batch_latency": others, "throughput_s": rates}


def _left_out(costs: Mapping[str, Cost], skipped: Mapping[str, str], plan: Plan) -> list[str]:
    """A line for each thing that the time limit cut or left out, so that the same command does it again."""
    cut: dict[str, list[str]] = {}
    for name, cost in costs.items():
        for size, latency in {1: cost.latency, **cost.batch_latency}.items():
            if latency is not None and latency["session"]["cut"]:
                rounds = latency["session"]["rounds"]
                cut.setdefault(f"latency at batch {size} was cut after {rounds} rounds", []).append(name)
        for size, seconds in cost.throughput_s.items():
            if seconds < plan.seconds:
                cut.setdefault(f"throughput at batch {size} was cut to {seconds:.1f} s", []).append(name)
        for field, why in cost.missing.items():
            if why.startswith(TIME_IS_UP):
                cut.setdefault(f"{field}: {why}", []).append(name)
    for name, why in skipped.items():
        if why.startswith(TIME_IS_UP):
            cut.setdefault(why, []).append(name)
    return [f"{what}: {', '.join(of)}" for what, of in cut.items()]


def _left(out: Path | None, definition: str) -> dict[str, Any]:
    """Models and sessions of a file that an earlier process of the same command left; none of another."""
    nothing: dict[str, Any] = {"models": {}, "sessions": []}
    try:
        found = json.loads(out.read_bytes()) if out is not None else {}
        return found if found.get("definition") == definition else nothing
    except (OSError, ValueError, AttributeError):
        return nothing


def _print_session(
    costs: Mapping[str, Cost],
    skipped: Mapping[str, str],
    weights: str,
    cells: Mapping[str, Cell],
) -> None:
    """What readers of the tables must know: what is missing, the weights, the machine."""
    for name, why in skipped.items():
        say(Text.assemble(("not measured:", "yellow"), f" {name}: {why}"))
    for name, cost in costs.items():
        for field, why in cost.missing.items():
            say(Text.assemble(("not measured:", "yellow"), f" {name}, {field}: {why}"))
    if cells:
        taken = ", ".join(f"{name} {cell.id[:8]} (fold {cell.fold}, seed {cell.seed})" for name, cell in cells.items())
        console.print(f"Weights of {weights}: {taken}.", highlight=False)
    else:
        console.print(
            "Random weights: two-stage models have other numbers of proposals than trained ones, and take other times.",
            highlight=False,
        )
    state = _session_of(costs)
    if state is None:
        return
    machine = state["machine"]
    console.print(
        f"{state['rounds']} rounds after {state['warmup_rounds']} of warm-up"
        f"{'' if state['stable'] else ' (did not become stable)'}"
        f"{', cut short by the time limit' if state['cut'] else ''}; {machine['threads']} threads, "
        f"{machine['cores']} cores, governor {machine['governor'] or 'unknown'}.",
        highlight=False,
    )
    if machine["busy"]:
        others = f" others kept {machine['other_cores']:.2f} cores busy, or were on the GPU; "
        say(Text.assemble(("Busy machine:", "bold yellow"), others, "ratios hold, absolute times do not."))
    if machine["gpu"] is not None and all(c.energy_j is None and "energy_j" not in c.missing for c in costs.values()):
        console.print("Energy was not measured: python -m pip install nvidia-ml-py", highlight=False)


def _complete(folder: Path, root: Path) -> None:
    """Add to records, and to profiles beside them, the parameters that run in evaluation: of the network built anew
    from each cell, which must have as many parameters as the record says.
    """
    import torch

    from benchmarks.cost.counts import parameters_in_evaluation
    from benchmarks.cost.failures import reason
    from benchmarks.datasets.catalogue import get as get_dataset
    from benchmarks.store import scan, write_record
    from benchmarks.trained import build_cell_model

    counted: dict[tuple[Any, ...], tuple[int, int] | str] = {}
    completed = 0
    for stored in scan(folder):
        facts, profile = stored.run.model, stored.profile
        of_profile = None if profile is None else profile.parameters
        if facts is None or (facts.in_evaluation is not None and (of_profile is None or "in_evaluation" in of_profile)):
            continue
        cell = stored.run.cell
        key = (cell.dataset, *_asked(cell), cell.recipe.weights)
        if key not in counted:
            try:
                model = build_cell_model(cell, len(get_dataset(cell.dataset, root).classes))
                image = torch.zeros(3, cell.image_size, cell.image_size)
                counted[key] = sum(p.numel() for p in model.parameters()), parameters_in_evaluation(model, [image])
            except Exception as e:  # a library that is not here, or another version of it
                counted[key] = reason(e)
        found = counted[key]
        if isinstance(found, str) or found[0] != facts.parameters:
            why = (
                found
                if isinstance(found, str)
                else f"built now, it has {found[0]} parameters, and had {facts.parameters}"
            )
            console.print(f"not completed: {stored.paths.record}: {why}", soft_wrap=True, highlight=False)
            continue
        more = facts.model_copy(update={"in_evaluation": found[1]})
        write_record(stored.paths.record, stored.run.model_copy(update={"model": more}))
        if profile is not None and of_profile is not None:
            parameters = {**of_profile, "in_evaluation": found[1]}
            write_record(stored.paths.profile, profile.model_copy(update={"parameters": parameters}))
        completed += 1
    console.print(f"completed {completed} records of {folder}", highlight=False)


def _beside_fvcore(built: Mapping[str, nn.Module], images: Sequence[Tensor]) -> None:
    """fvcore's count of the first image beside ours, and the operators that each leaves out."""
    from benchmarks.cost.counts import FVCORE_PRODUCTS, count_macs, count_with_fvcore
    from benchmarks.cost.failures import reason

    table = _columns(
        "Multiply-accumulates of the first image, in millions", "ours", "fvcore, the same", "ratio", "fvcore, all"
    )
    left_out = []
    for name, model in built.items():
        ours = count_macs(model.eval(), images[:1])
        left_out.append(f"{name}, ours: {_calls(ours['uncounted'])}")
        try:
            theirs, uncounted = count_with_fvcore(model, images[0])
        except RequestError:
            raise
        except Exception as e:  # what tracing makes of somebody's model
            table.add_row(name, f"{ours['macs'] / 1e6:.2f}", "-", "-", "-")
            left_out.append(f"{name}, fvcore cannot trace it: {reason(e)}")
            continue
        same = sum(theirs.get(operator, 0) for operator in FVCORE_PRODUCTS)
        millions = [f"{n / 1e6:.2f}" for n in (ours["macs"], same, sum(theirs.values()))]
        table.add_row(name, *millions[:2], f"{ours['macs'] / same:.4f}", millions[2])
        left_out.append(f"{name}, fvcore: {_calls(uncounted)}")
    console.print(table)
    console.print(
        "The same: convolutions, linear layers, matrix products. All: with norms and interpolation. "
        "Fused attention is not in fvcore's count. Not counted, with calls:",
        highlight=False,
    )
    for line in left_out:
        console.print(f"  {line}", highlight=False, soft_wrap=True)


def _calls(operators: Mapping[str, int]) -> str:
    return ", ".join(f"{n} {name}" for name, n in sorted(operators.items(), key=lambda x: (-x[1], x[0]))) or "nothing"


def _distinct(models: Sequence[str]) -> dict[str, tuple[str, str]]:
    """Name to show -> model and variant. A model may be named twice, to see what the clock makes of that."""
    out: dict[str, tuple[str, str]] = {}
    for text in models:
        base, variant = split_name(text)
        shown, again = text, 2
        while shown in out:
            shown, again = f"{text} ({again})", again + 1
        out[shown] = base, variant or "default"
    return out


def _random(base: str, variant: str, classes: int, image_size: int, scale: str, seed: int) -> nn.Module:
    import torch

    from benchmarks import models as registry

    torch.manual_seed(seed)
    own = registry.get(base).scale(scale)
    return registry.build_model(base, num_classes=classes, image_size=image_size, scale=own, variant=variant)


def _trained_cell(runs: Path, dataset: str, base: str, variant: str, scale: str, image_size: int) -> Cell:
    """The first cell (by fold, seed, id) below `runs` that trained this model; RequestError where there is none."""
    from benchmarks import models as registry
    from benchmarks.store import scan

    asked = (dataset, base, variant, registry.get(base).scale(scale), image_size, None)  # a run profiles tiles itself
    there = [s.run.cell for s in scan(runs) if s.run.status == "ok" and s.paths.weights.exists()]
    found = [cell for cell in there if _asked(cell) == asked]
    if not found:
        name = base if variant == "default" else f"{base}:{variant}"
        others = sorted({(c.scale, c.image_size) for c in there if _asked(c)[:3] == asked[:3] and c.tile is None})
        said = {own: requested for requested, own in registry.get(base).scales.items()}  # as --scale takes them
        said[registry.get(base).scale(scale)] = scale
        ask = " or ".join(f"--scale {said[own]} --image-size {size}" for own, size in others if own in said)
        raise RequestError(
            f"{runs} holds no trained {name} for {dataset} at scale {asked[3]} and {image_size} px, untiled; "
            + (f"ask for what it holds: {ask}" if ask else "train it with benchmarks.run, or leave out --trained")
        )
    first = min(found, key=lambda cell: (cell.fold, cell.seed, cell.id))
    ways = {digest_of(cell.model_dump(mode="json", exclude={"fold", "seed"})): cell for cell in found}
    if len(ways) > 1:
        shown = ", ".join(sorted(f"{cell.id[:8]} ({cell.recipe.epochs} epochs)" for cell in ways.values()))
        raise RequestError(
            f"{runs} holds {first.name} for {dataset} trained in {len(ways)} ways: {shown}; move all but one away"
        )
    return first


def _asked(cell: Cell) -> tuple[object, ...]:
    return cell.dataset, cell.model, cell.variant, cell.scale, cell.image_size, cell.tile


def _load(cell: Cell, dataset: str, root: Path, runs: Path) -> nn.Module:
    import torch

    from benchmarks.datasets.prepared import ensure
    from benchmarks.trained import load_trained

    return load_trained(cell, ensure(dataset, root), runs, torch.device("cpu"))


def _samples(dataset: str, root: Path, cell: Cell | None, count: int) -> list[tuple[Tensor, dict[str, Tensor]]]:
    """The first `count` images of a set, or of a cell's test images, with targets; an embedded set is made."""
    from benchmarks.datasets.loading import DetectionDataset
    from benchmarks.datasets.prepared import ensure
    from benchmarks.datasets.splits import load_split

    prepared = ensure(dataset, root)
    if cell is None:
        files: Sequence[str] = [image["file_name"] for image in prepared.images]
    else:
        files = load_split(cell.dataset, cell.split, cell.fold, root).test
    samples = DetectionDataset(prepared, files[:count])
    return [samples[i] for i in range(len(samples))]


def _tables(costs: Mapping[str, Cost]) -> Iterable[Table]:
    """Tables that fit a terminal of 100 columns."""
    table = _columns(
        "Cost of an image: parameters, activations in millions; memory in MiB; FLOPs are twice the MACs",
        *("param.", "trained", "in eval.", "GMACs", "activ.", "proposals", "weights", "peak", "training"),
    )
    for name, cost in costs.items():
        parameters, macs = cost.parameters or {}, cost.macs or {}
        table.add_row(
            name,
            *(_or_dash(parameters.get(key), "{:.2f}", 1e6) for key in ("total", "trainable", "in_evaluation")),
            _or_dash(macs.get("macs"), "{:.3f}", 1e9),
            _or_dash(macs.get("activations"), "{:.2f}", 1e6),
            _or_dash(macs.get("proposals"), "{:.0f}"),
            _or_dash(parameters.get("state_bytes"), "{:.1f}", 2**20),
            _or_dash(cost.peak_memory_bytes, "{:.1f}", 2**20),
            _or_dash(cost.training_memory_bytes, "{:.0f}", 2**20),
        )
    yield table
    sizes = [1, *sorted({size for cost in costs.values() for size in cost.batch_latency})]
    for size in sizes:
        latency = {n: c.latency if size == 1 else c.batch_latency.get(size) for n, c in costs.items()}
        if any(one is not None for one in latency.values()):
            yield _times(size, latency)
    sizes = sorted({size for cost in costs.values() for size in cost.throughput})
    joules = ["J per image"] if any(cost.energy_j is not None for cost in costs.values()) else []
    rate = _columns("Images per second, end to end", *(f"batch {size}" for size in sizes), *joules)
    for name, cost in costs.items():
        values = [
            f"{v:.1f}" if (v := cost.throughput.get(size)) is not None else cost.missing.get(f"throughput.{size}", "-")
            for size in sizes
        ]
        rate.add_row(name, *values, *([_or_dash(cost.energy_j, "{:.3f}")] if joules else []))
    yield rate


def _times(size: int, latency: Mapping[str, dict[str, Any] | None]) -> Table:
    measured = {name: one for name, one in latency.items() if one is not None}
    reference = next(iter(measured.values()))["reference"]
    on_gpu = [NETWORK_ON_GPU] if any(NETWORK_ON_GPU in one["p50"] for one in measured.values()) else []
    times = _columns(
        f"Latency at batch {size} in ms: medians; p90 and p99 of end to end; ratio to {reference} (95%)",
        *("pre", "network", *(["on GPU"] if on_gpu else []), "post", "end to end", "p90", "p99", "first", "ratio"),
    )
    phases = [PHASES[0], PHASES[1], *on_gpu, PHASES[2], PHASES[3]]
    for name, one in measured.items():
        low, high = one["ratio_interval"]
        times.add_row(
            name,
            *(_or_dash(one["p50"].get(phase), "{:.2f}") for phase in phases),
            f"{one['p90']['end_to_end']:.2f}",
            f"{one['p99']['end_to_end']:.2f}",
            f"{one['first_call_ms']:.0f}",
            "1" if name == reference else f"{one['ratio']:.3f} [{low:.3f}, {high:.3f}]",
        )
    return times


def _columns(title: str, *names: str) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, padding=(0, 0, 0, 1))
    table.add_column("model", overflow="fold", min_width=14)
    for name in names:
        table.add_column(name, justify="right", no_wrap=True)
    return table


def _or_dash(value: float | None, form: str, unit: float = 1.0) -> str:
    return "-" if value is None else form.format(value / unit)


def _print_uncounted(costs: Mapping[str, Cost], most: int = 5) -> None:
    """The operators that the counts leave out, each list once."""
    console.print("Calls per image of operators without a formula (--out has all):", highlight=False)
    printed: list[Any] = []
    for name, cost in costs.items():
        if cost.macs is None or (uncounted := cost.macs["uncounted"]) in printed:
            continue
        printed.append(uncounted)
        calls = sorted(uncounted.items(), key=lambda item: (-item[1], item[0]))
        shown = [f"{count} {operator.removeprefix('aten.').strip('_')}" for operator, count in calls[:most]]
        rest = sum(count for _, count in calls[most:])
        share = f"{cost.macs['coverage']:.0%} of calls counted"
        console.print(f"  {name}: {', '.join([*shown, f'{rest} others'])} ({share})", highlight=False)


if __name__ == "__main__":
    run_app(app)
