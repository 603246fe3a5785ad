"""What a model costs: parameters, multiply-accumulates, memory, latency, throughput, energy.

    python -m benchmarks.profile --model canet --model fasterrcnn_fpn --scale nano --image-size 160

Models are timed in turns within one process, in random order within every round, on the same images, so that
drift of the machine hits all alike; speeds are compared as ratios paired within rounds. Nothing is trimmed.
docs/cost-and-time.md says what is measured how, and which rules of the field are not obeyed.
"""

from __future__ import annotations

import importlib.util
import json
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich import box
from rich.table import Table

from benchmarks.cli import console, run_app
from benchmarks.cost.clock import PHASES, measure_latency, measure_throughput
from benchmarks.cost.counts import count_macs, count_parameters
from benchmarks.cost.energy import measure_energy
from benchmarks.cost.engines import CannotRun, Form
from benchmarks.cost.memory import peak_memory, training_memory
from benchmarks.devices import pick_device, provenance
from benchmarks.errors import RequestError
from benchmarks.models import split_name
from benchmarks.store import now, require_writable, write_atomic

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from benchmarks.cells import Cell

# Images of the training step whose memory is measured.
TRAINING_BATCH = 8


app = typer.Typer(add_completion=False, rich_markup_mode="rich")


@app.command()
def main(
    model: Annotated[
        list[str] | None, typer.Option(help="Model, or MODEL:VARIANT; repeat it. Default: those of --suite.")
    ] = None,
    suite: Annotated[str, typer.Option(help="Suite whose models are taken where none is named.")] = "small_defects",
    form: Annotated[
        list[str] | None,
        typer.Option(
            help="ENGINE or ENGINE:PRECISION in which every model runs; repeat it. Engines: torch (default), deploy "
            "(CANet), compile, graphs (CUDA), onnx (CPU); precisions: fp32 (default), tf32 (CUDA), bf16, fp16 (CUDA)."
        ),
    ] = None,
    scale: Annotated[str, typer.Option(help="Scale of the models.")] = "nano",
    image_size: Annotated[int, typer.Option(help="Longer side in pixels that images are resized to.")] = 160,
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
        list[int] | None, typer.Option(help="Batch size to measure throughput at; repeat it. Default: 1 and 16.", min=1)
    ] = None,
    reference: Annotated[str | None, typer.Option(help="Entry that ratios are to. Default: the first.")] = None,
    seed: Annotated[int, typer.Option(help="Of random weights and of the order.")] = 0,
    out: Annotated[Path | None, typer.Option(help="JSON file for everything, raw samples included.")] = None,
) -> None:
    """What models cost, in turns in one process: counts, memory, latency by phase, throughput, energy.

    The number of proposals, and with it the time of two-stage models, depends on the weights: what is quoted
    comes from trained ones (--trained, or the profiles that benchmarks.run makes).
    """
    from benchmarks import models as registry
    from benchmarks import suites
    from benchmarks.datasets.catalogue import data_root as default_root
    from benchmarks.datasets.catalogue import get as get_dataset

    listed = [m if v == "default" else f"{m}:{v}" for m, v in suites.load(suite).selected(())]
    names = _distinct(model or [name for name in listed if registry.missing_extra(name.partition(":")[0]) is None])
    for base, variant in names.values():
        registry.get(base).scale(scale)
        registry.check_variant(base, variant)
        if (missing := registry.missing_extra(base)) is not None:
            raise RequestError(missing)
    classes = len(get_dataset(dataset).classes)
    forms = [Form.parse(text, device.partition(":")[0]) for text in dict.fromkeys(form or ["torch"])]
    wanted = {f"{shown} {one}".strip(): (shown, one) for shown in names for one in forms}
    reference = reference or next(iter(wanted))
    if reference not in wanted:
        raise RequestError(f"the reference {reference!r} is not among what is measured: {', '.join(wanted)}")
    if out is not None:
        require_writable(out.parent)

    import torch

    target = pick_device(device)
    if threads is not None:
        torch.set_num_threads(threads)
    began = now()
    root = default_root(data_root)
    with console.status("building"):
        if trained is None:
            samples = _samples(dataset, root, None, images)
            built = {name: _random(*pair, classes, image_size, scale, seed) for name, pair in names.items()}
        else:
            cells = {name: _trained_cell(trained, dataset, *pair, scale, image_size) for name, pair in names.items()}
            samples = _samples(dataset, root, next(iter(cells.values())), images)
            built = {name: _load(cell, dataset, root, trained) for name, cell in cells.items()}
        inputs = [image for image, _ in samples]
        entries, skipped = _in_forms({k: m.to(target) for k, m in built.items()}, wanted, inputs)
    if reference not in entries:
        raise RequestError(f"the reference cannot be measured: {reference}: {skipped[reference]}")
    running = {name: entry.running for name, entry in entries.items()}
    with console.status("counting"):
        costs = _costs(entries, samples, target)
    # No spinner from here on: its thread would be measured too.
    console.print(f"timing {len(running)} entries in turns", highlight=False)
    latency = measure_latency(
        running,
        inputs,
        device=target,
        runs=runs,
        warmup=warmup,
        seed=seed,
        reference=reference,
        min_seconds=min_seconds,
    )
    seconds = max(min_seconds / 5, 0.2)
    throughput = measure_throughput(
        running, inputs, device=target, batch_sizes=batch_size or [1, 16], seconds=seconds, seed=seed
    )
    energy = measure_energy(running, inputs, device=target, seconds=seconds)
    session = next(iter(latency.values()))["session"]
    machine = session["machine"]
    for table in _tables(costs, latency, throughput, energy):
        console.print(table)
    _print_uncounted(costs)
    for name, reason in skipped.items():
        console.print(f"[yellow]not measured:[/] {name}: {reason}", highlight=False)
    weights = "Random weights" if trained is None else f"Weights of {trained}"
    console.print(
        f"{weights}, {len(inputs)} images of {dataset}, network input "
        f"{' x '.join(map(str, next(iter(costs.values()))['macs']['input_shape']))}, {device}, batch 1 for latency.",
        highlight=False,
    )
    console.print(
        f"{session['rounds']} rounds after {session['warmup_rounds']} of warm-up"
        f"{'' if session['stable'] else ' (did not become stable)'}; {machine['threads']} threads, "
        f"{machine['cores']} cores, governor {machine['governor'] or 'unknown'}.",
        highlight=False,
    )
    if machine["busy"]:
        console.print(
            f"[bold yellow]Busy machine:[/] others kept {machine['other_cores']:.2f} cores busy, or were on the GPU; "
            "ratios hold, absolute times do not.",
            highlight=False,
        )
    if target.type == "cuda" and importlib.util.find_spec("pynvml") is None:
        console.print("Energy was not measured: python -m pip install nvidia-ml-py", highlight=False)
    if out is not None:
        content = {
            "kind": "profile",
            "weights": "random" if trained is None else str(trained),
            "dataset": dataset,
            "image_size": image_size,
            "scale": scale,
            "session": session,
            "provenance": provenance(started=began, device=target).model_dump(),
            "models": {
                name: {
                    "label": registry.label(*names[wanted[name][0]]),
                    "engine": wanted[name][1].engine,
                    "precision": wanted[name][1].precision,
                    "preparation_s": entry.preparation_s,
                    **costs[name],
                    "latency": {k: v for k, v in latency[name].items() if k != "session"},
                    "throughput": throughput[name],
                    "energy_j": energy[name],
                }
                for name, entry in entries.items()
            },
            "not_measured": skipped,
        }
        write_atomic(out, (json.dumps(content, indent=1) + "\n").encode())
        console.print(f"wrote {out}", highlight=False)


@dataclass(frozen=True)
class Entry:
    """A model, the form it runs in, and the seconds that making the form took (export, compilation, capture)."""

    model: nn.Module
    form: Form
    running: nn.Module
    preparation_s: float | None


def _in_forms(
    built: Mapping[str, nn.Module], wanted: Mapping[str, tuple[str, Form]], images: Sequence[Tensor]
) -> tuple[dict[str, Entry], dict[str, str]]:
    """Name -> entry, and name -> why it cannot be measured."""
    import torch

    entries: dict[str, Entry] = {}
    skipped: dict[str, str] = {}
    for name, (shown, form) in wanted.items():
        model = built[shown].eval()
        began = time.monotonic()
        try:
            running = form.of(model, images)
            if form.engine in ("compile", "graphs"):
                with torch.inference_mode():
                    running([image.to(next(model.parameters()).device) for image in images[:1]])
        except CannotRun as e:
            skipped[name] = str(e)
        except Exception as e:
            if form.engine not in ("compile", "graphs"):
                raise
            skipped[name] = f"{type(e).__name__}: {(str(e).strip() or 'no message').splitlines()[0]}"
        else:
            plain = form.engine == "torch"
            entries[name] = Entry(model, form, running, None if plain else time.monotonic() - began)
    return entries, skipped


def _costs(
    entries: Mapping[str, Entry], samples: Sequence[tuple[Tensor, Any]], device: torch.device
) -> dict[str, dict[str, Any]]:
    """Counts and memory. What a form leaves as it is is counted once, on the model itself: its parameters always,
    since an inference form holds them as constants; its arithmetic in all but `deploy`.
    """
    import torch

    images, targets = [image for image, _ in samples], [target for _, target in samples]
    counts: dict[int, dict[str, Any]] = {}
    out = {}
    for name, entry in entries.items():
        counted = entry.running.model if entry.form.engine == "deploy" else entry.model
        if id(counted) not in counts:
            counts[id(counted)] = {"parameters": count_parameters(entry.model), "macs": count_macs(counted, images)}
        # ONNX Runtime and captured graphs have memory of their own, which torch's allocator does not count.
        peak = training = None
        if entry.form.engine not in ("onnx", "graphs"):
            peak = peak_memory(entry.running, images[:1], device=device)
        if entry.form == Form():
            training = training_memory(
                entry.model,
                images[:TRAINING_BATCH],
                targets[:TRAINING_BATCH],
                device=device,
                optimizer=lambda model: torch.optim.AdamW(model.parameters()),
            )
        out[name] = {**counts[id(counted)], "peak_memory_bytes": peak, "training_memory_bytes": training}
    return out


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
    """The first cell (by fold and seed) below `runs` that trained this model; RequestError where there is none."""
    from benchmarks import models as registry
    from benchmarks.store import scan

    asked = (dataset, base, variant, registry.get(base).scale(scale), image_size)
    found = [
        stored.run.cell
        for stored in scan(runs)
        if stored.run.status == "ok" and stored.paths.weights.exists() and _asked(stored.run.cell) == asked
    ]
    if not found:
        name = base if variant == "default" else f"{base}:{variant}"
        raise RequestError(
            f"{runs} holds no trained {name} for {dataset} at scale {asked[3]} and {image_size} px; "
            "train it with benchmarks.run, or leave out --trained"
        )
    return min(found, key=lambda cell: (cell.fold, cell.seed))


def _asked(cell: Cell) -> tuple[str, str, str, str, int]:
    return cell.dataset, cell.model, cell.variant, cell.scale, cell.image_size


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
        files = load_split(cell.dataset, cell.split, cell.fold).test
    samples = DetectionDataset(prepared, files[:count])
    return [samples[i] for i in range(len(samples))]


def _tables(
    costs: Mapping[str, Any],
    latency: Mapping[str, Any],
    throughput: Mapping[str, Mapping[int, float | None]],
    energy: Mapping[str, float | None],
) -> Iterable[Table]:
    """Three tables that fit a terminal of 100 columns."""
    cost = _columns(
        "Cost of an image: parameters, activations in millions; memory in MiB; FLOPs are twice the MACs",
        *("param.", "trainable", "GMACs", "counted", "activ.", "proposals", "weights", "peak", "training"),
    )
    for name, one in costs.items():
        parameters, macs = one["parameters"], one["macs"]
        cost.add_row(
            name,
            f"{parameters['total'] / 1e6:.2f}",
            f"{parameters['trainable'] / 1e6:.2f}",
            f"{macs['macs'] / 1e9:.3f}",
            f"{macs['coverage']:.0%}",
            f"{macs['activations'] / 1e6:.2f}",
            _or_dash(macs["proposals"], "{:.0f}"),
            f"{parameters['state_bytes'] / 2**20:.1f}",
            _or_dash(one["peak_memory_bytes"], "{:.1f}", 2**20),
            _or_dash(one["training_memory_bytes"], "{:.0f}", 2**20),
        )
    yield cost
    reference = next(iter(latency.values()))["reference"]
    times = _columns(
        f"Latency at batch 1 in ms: medians; p90 and p99 of end to end; ratio to {reference} (95%)",
        *("pre", "network", "post", "end to end", "p90", "p99", "first", "ratio"),
    )
    for name, one in latency.items():
        low, high = one["ratio_interval"]
        times.add_row(
            name,
            *(f"{one['p50'][phase]:.2f}" for phase in PHASES),
            f"{one['p90']['end_to_end']:.2f}",
            f"{one['p99']['end_to_end']:.2f}",
            f"{one['first_call_ms']:.0f}",
            "1" if name == reference else f"{one['ratio']:.3f} \\[{low:.3f}, {high:.3f}]",
        )
    yield times
    sizes = sorted({size for by_size in throughput.values() for size in by_size})
    joules = ["J per image"] if any(value is not None for value in energy.values()) else []
    rate = _columns("Images per second, end to end", *(f"batch {size}" for size in sizes), *joules)
    for name, by_size in throughput.items():
        values = [f"{v:.1f}" if (v := by_size[size]) is not None else "out of memory" for size in sizes]
        rate.add_row(name, *values, *([_or_dash(energy[name], "{:.3f}")] if joules else []))
    yield rate


def _columns(title: str, *names: str) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, padding=(0, 0, 0, 1))
    table.add_column("model", overflow="fold", min_width=14)
    for name in names:
        table.add_column(name, justify="right", no_wrap=True)
    return table


def _or_dash(value: float | None, form: str, unit: float = 1.0) -> str:
    return "-" if value is None else form.format(value / unit)


def _print_uncounted(costs: Mapping[str, Any], most: int = 5) -> None:
    """The operators that `counted` leaves out, each list once."""
    console.print("Calls per image of operators without a formula (--out has all):", highlight=False)
    printed: list[Any] = []
    for name, one in costs.items():
        if (uncounted := one["macs"]["uncounted"]) in printed:
            continue
        printed.append(uncounted)
        calls = sorted(uncounted.items(), key=lambda item: (-item[1], item[0]))
        shown = [f"{count} {operator.removeprefix('aten.').strip('_')}" for operator, count in calls[:most]]
        rest = sum(count for _, count in calls[most:])
        console.print(f"  {name}: {', '.join([*shown, f'{rest} others'])}", highlight=False)


if __name__ == "__main__":
    run_app(app)
