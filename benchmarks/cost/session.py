"""What models cost, measured in one session: told once, for suites and for the command.

What concerns one model (counts, memory, energy) is measured one after the other; what is timed (latency, throughput),
in turns in one process. Each result is kept as soon as it is there. A measurement that fails is missing, with the
reason, and the others go on.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypedDict, cast

from benchmarks.cells import digest_of
from benchmarks.cost.clock import Results, measure_latency, measure_throughput
from benchmarks.cost.counts import count_macs, count_parameters, output_shapes, parameters_in_evaluation
from benchmarks.cost.energy import energy_meter, measure_energy
from benchmarks.cost.engines import CannotRun, Form
from benchmarks.cost.failures import reason, release
from benchmarks.cost.memory import peak_memory, training_memory
from benchmarks.store import write_atomic

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

# Seconds between two savings of latencies that are still being measured.
SAVE_EVERY_S = 15.0

TIME_IS_UP = "the time limit was reached before"


@dataclass(frozen=True)
class Plan:
    """How much is measured.

    runs, warmup, min_seconds: timed rounds, rounds before them and seconds timed per model, at least.
    latency_batches, batch_sizes: images at a time, of latency and of throughput.
    seconds: that throughput, at each batch size, and energy take per model.
    count_images: images whose operations are counted and averaged; 0 for none.
    memory: whether memory is measured.
    """

    runs: int = 200
    warmup: int = 50
    min_seconds: float = 10.0
    latency_batches: tuple[int, ...] = (1,)
    batch_sizes: tuple[int, ...] = (1, 16)
    seconds: float = 2.0
    count_images: int = 3
    memory: bool = True
    seed: int = 0


@dataclass(frozen=True)
class Step:
    """The training step whose memory is measured: images with their targets as one batch, the optimiser, and what the
    forward pass runs in (`torch.autocast`, of the recipe's precision).
    """

    samples: Sequence[tuple[Tensor, Mapping[str, Any]]]
    optimizer: Callable[[nn.Module], torch.optim.Optimizer]
    forward_in: Callable[[], AbstractContextManager[Any]] = nullcontext


@dataclass(frozen=True)
class ProfiledModel:
    """A model, the form it runs in, and the seconds that making the form took (export, compilation, capture)."""

    model: nn.Module
    form: Form
    running: nn.Module
    preparation_s: float | None = None
    step: Step | None = None


@dataclass
class Cost:
    """What one entry costs; None is what was not measured.

    missing: name of a field (`throughput.16` of one batch size) -> why a measurement that was tried gave nothing.
    batch_latency: `latency` by batch size, of batch sizes other than 1.
    throughput_s: seconds that each throughput was given, by batch size.
    """

    parameters: dict[str, Any] | None = None
    macs: dict[str, Any] | None = None
    output_shapes: dict[str, tuple[int, ...]] | None = None
    peak_memory_bytes: int | None = None
    training_memory_bytes: int | None = None
    training_batch: int | None = None
    latency: dict[str, Any] | None = None
    batch_latency: dict[int, dict[str, Any]] = field(default_factory=dict)
    throughput: dict[int, float | None] = field(default_factory=dict)
    throughput_s: dict[int, float] = field(default_factory=dict)
    energy_j: float | None = None
    missing: dict[str, str] = field(default_factory=dict)


class ProgressCallback(Protocol):
    """Told what is being measured, and how far it is; `total` is 0 where that is not known."""

    def __call__(self, what: str, done: int, total: int) -> None: ...


def silent(what: str, done: int, total: int) -> None:
    """Reports nothing."""


class Timing(TypedDict):
    """A timing of several entries in turns: what was found of each, why others failed, and how much was asked of it.

    cut: whether a time limit cut it short, so that it is to be measured again. amount: rounds, or seconds of each.
    """

    found: dict[str, Any]
    failed: dict[str, str]
    cut: bool
    amount: float


def _entries(timing: Mapping[str, Any]) -> set[str]:
    return {*timing["found"], *timing["failed"]}


class Kept:
    """What an interrupted session has measured already, in a file.

    Counts, memory and energy are kept by model; latency and throughput of a batch size whole, since their models are
    measured in turns in one process: interrupted, they are measured anew. What a time limit cut is kept apart, to be
    shown until it is measured again.

    Args:
        path: None keeps nothing.
        definition: what was to be measured, with what; a file of another is started anew.
    """

    def __init__(self, path: Path | None, definition: Any) -> None:
        self._path = path
        self._content: dict[str, Any] = {"definition": digest_of(definition), "kept": {}, "cut": {}}
        if path is not None and path.exists():
            try:
                found = json.loads(path.read_bytes())
                sealed = digest_of([found["kept"], found["cut"]]) == found["digest"]
            except (OSError, ValueError, KeyError, TypeError):
                return  # damaged: what it held is measured again
            if sealed and found["definition"] == self._content["definition"]:
                self._content.update(kept=found["kept"], cut=found["cut"])
        self.resumed = sorted(self._content["kept"])

    resumed: Sequence[str] = ()
    """Keys of what an earlier process measured."""

    def of(self, key: str, measure: Callable[[], Any]) -> Any:
        """The value kept under `key` (JSON), measured where there is none."""
        kept = self._content["kept"]
        if key not in kept:
            kept[key] = measure()
            self._write()
        return kept[key]

    def has(self, key: str) -> bool:
        """Whether `of` would not measure."""
        return key in self._content["kept"]

    def timing(self, key: str, names: Collection[str], until: float, measure: Callable[[], Timing]) -> Timing:
        """As `of`, of a timing of the entries `names`: one that was cut, or lacks some of them, is measured again.

        Of two that were cut the one with more in it stays.

        until: time.monotonic() from which on what was cut before is taken as it is.
        """
        kept, cut = self._content["kept"], self._content["cut"]
        if self.is_final(key, names):
            return cast("Timing", kept[key])
        earlier = self.earlier(key)
        comparable = earlier is not None and set(names) <= _entries(earlier)
        if earlier is not None and comparable and time.monotonic() >= until:
            return earlier
        found = measure()
        if earlier is not None and comparable and found["cut"] and earlier["amount"] > found["amount"]:
            return earlier
        for kind in (kept, cut):
            kind.pop(key, None)
        (cut if found["cut"] else kept)[key] = found
        self._write()
        return found

    def earlier(self, key: str) -> Timing | None:
        """A timing as it was left, cut or not."""
        return cast("Timing | None", self._content["kept"].get(key, self._content["cut"].get(key)))

    def is_final(self, key: str, names: Collection[str]) -> bool:
        """Whether a timing of these entries need not be measured again."""
        kept = self._content["kept"].get(key)
        return kept is not None and set(names) <= _entries(kept)

    def _write(self) -> None:
        if self._path is not None:
            content = {**self._content, "digest": digest_of([self._content["kept"], self._content["cut"]])}
            write_atomic(self._path, (json.dumps(content) + "\n").encode())

    def done(self) -> None:
        """The session's records are written: forget."""
        if self._path is not None:
            self._path.unlink(missing_ok=True)


def prepare(
    built: Mapping[str, nn.Module],
    wanted: Mapping[str, tuple[str, Form]],
    images: Sequence[Tensor],
    *,
    steps: Mapping[str, Step] | None = None,
    batch_sizes: Sequence[int] = (1,),
    deadline: float = math.inf,
    report: ProgressCallback = silent,
) -> tuple[dict[str, ProfiledModel], dict[str, str]]:
    """Models in the forms that are wanted.

    Args:
        built: name -> model, on the device that it is measured on.
        wanted: name of an entry -> name of its model, form.
        steps: name of a model -> its training step; it is measured in the plain form.
        batch_sizes: that will be measured; each is compiled or captured for itself.
        deadline: time.monotonic() after which no form is compiled, captured or exported any more.

    Returns:
        Name -> entry, in the order wanted, and name -> why it cannot be measured.
    """
    import torch

    entries: dict[str, ProfiledModel] = {}
    skipped: dict[str, str] = {}
    # What takes long to make comes last, so that a deadline costs the least.
    quick = sorted(wanted, key=lambda name: wanted[name][1].engine not in ("torch", "deploy"))
    for i, name in enumerate(quick):
        shown, form = wanted[name]
        model = built[shown].eval()
        report(f"preparing {name}", i, len(wanted))
        began = time.monotonic()
        if form.engine not in ("torch", "deploy") and began >= deadline:
            skipped[name] = f"{TIME_IS_UP} it was prepared"
            continue
        try:
            running = form.of(model, images)
            if form.engine in ("compile", "graphs"):
                on_device = [image.to(next(model.parameters()).device) for image in images]
                with torch.inference_mode():
                    for size in batch_sizes:
                        running([on_device[j % len(on_device)] for j in range(size)])
        except CannotRun as e:
            skipped[name] = str(e)
        except Exception as e:
            skipped[name] = reason(e)
            release()
        else:
            plain = form.engine == "torch"
            step = (steps or {}).get(shown) if form == Form() else None
            entries[name] = ProfiledModel(model, form, running, None if plain else time.monotonic() - began, step)
    return {name: entries[name] for name in wanted if name in entries}, skipped


def session(
    entries: Mapping[str, ProfiledModel],
    images: Sequence[Tensor],
    *,
    device: torch.device,
    plan: Plan,
    reference: str | None = None,
    deadline: float = math.inf,
    kept: Kept | None = None,
    report: ProgressCallback = silent,
    saved: Callable[[Mapping[str, Cost]], None] = lambda costs: None,
) -> dict[str, Cost]:
    """Measure all entries.

    Args:
        images: float32 (3, H, W) in host memory.
        reference: the entry that ratios are to; the first by default, and where it fails.
        deadline: time.monotonic() by which to be done. Timings then share what time is left, and have fewer rounds;
            each has one round at least, and says that it was cut. Once all have been timed, by an earlier process,
            the first that was cut gets all that is left, so that each time one more is whole.
        kept: what an earlier process has measured is taken from it, and what is measured is added.
        saved: called with all results so far whenever there is more, also while latencies are measured.

    Returns:
        Name -> what it costs. `latency` has the session that it was measured in: rounds, machine, settings.
    """
    costs = {name: Cost() for name in entries}
    kept = kept or Kept(None, None)
    timings = [*map(_latency_key, plan.latency_batches), *map(_throughput_key, plan.batch_sizes)]

    def share(key: str) -> float:
        """When a timing has to end."""
        now = time.monotonic()
        ahead = [other for other in timings[timings.index(key) :] if not kept.is_final(other, entries)]
        parts = len(ahead) if any(kept.earlier(other) is None for other in ahead) else 1
        return now + max(deadline - now, 0.0) / max(parts, 1)

    def one(what: str, name: str, number: int, measure: Callable[[], dict[str, Any]]) -> None:
        """Measure some fields of one entry."""
        report(f"{what} {name}", number, len(entries))

        def tried() -> dict[str, Any]:
            try:
                return measure()
            except Exception as e:
                release()
                return {"missing": {field_: reason(e) for field_ in _FIELDS[what]}}

        found = dict(kept.of(f"{what}/{name}", tried))
        costs[name].missing.update(found.pop("missing", {}))
        for field_, value in found.items():
            setattr(costs[name], field_, value)
        saved(costs)

    def place(size: int, found: Results) -> None:
        for name, latency in found.items():
            if name in costs and size == 1:
                costs[name].latency = latency
            elif name in costs:
                costs[name].batch_latency[size] = latency

    def place_rates(size: int, timing: Timing) -> None:
        for name, rate in timing["found"].items():
            if name in costs:
                costs[name].throughput[size] = rate
                costs[name].throughput_s[size] = timing["amount"]

    # What there is already is in every saving, so that none holds less than the one before.
    for size in plan.latency_batches:
        if (timing := kept.earlier(_latency_key(size))) is not None:
            place(size, timing["found"])
    for size in plan.batch_sizes:
        if (timing := kept.earlier(_throughput_key(size))) is not None:
            place_rates(size, timing)
    counted: dict[int, dict[str, Any]] = {}
    for i, (name, entry) in enumerate(entries.items()):
        if plan.count_images:
            one("counting", name, i, partial(_counts, entry, images[: plan.count_images], device, counted))
    for i, (name, entry) in enumerate(entries.items()):
        # ONNX Runtime and captured graphs have memory of their own, which torch's allocator does not count.
        if plan.memory and entry.form.engine not in ("onnx", "graphs"):
            one("memory of", name, i, partial(_inference_memory, entry, images[:1], device))
        if plan.memory and entry.step is not None:
            one("training memory of", name, i, partial(_training_memory, entry.model, entry.step, device))
    running = {name: entry.running for name, entry in entries.items()}

    for size in plan.latency_batches:
        key = _latency_key(size)
        until, last = share(key), [time.monotonic()]

        def between(
            rounds: int, so_far: Callable[[], Results], key: str = key, size: int = size, last: list[float] = last
        ) -> None:
            report(key, rounds, plan.runs)
            if time.monotonic() - last[0] > SAVE_EVERY_S:
                place(size, so_far())
                saved(costs)
                last[0] = time.monotonic()

        def latencies(size: int = size, until: float = until, between: Any = between) -> Timing:
            failed: dict[str, str] = {}
            found = measure_latency(
                running,
                images,
                device=device,
                runs=plan.runs,
                warmup=plan.warmup,
                seed=plan.seed,
                reference=reference if reference in running else None,
                min_seconds=plan.min_seconds,
                batch_size=size,
                deadline=until,
                failed=failed,
                between=between,
            )
            for latency in found.values():
                latency["session"]["kept"] = list(kept.resumed)
            of_all: dict[str, Any] = next((latency["session"] for latency in found.values()), {})
            return {
                "found": found,
                "failed": failed,
                "cut": of_all.get("cut", False),
                "amount": of_all.get("rounds", 0),
            }

        report(key, 0, plan.runs)
        timing = kept.timing(key, entries, until, latencies)
        place(size, timing["found"])
        for name in entries.keys() & timing["failed"].keys():
            # What an earlier session found of it was timed beside other times of the others.
            if size == 1:
                costs[name].latency = None
            else:
                costs[name].batch_latency.pop(size, None)
            costs[name].missing["latency" if size == 1 else f"batch_latency.{size}"] = timing["failed"][name]
        saved(costs)
    for i, size in enumerate(plan.batch_sizes):
        key = _throughput_key(size)
        until = share(key)
        seconds = min(plan.seconds, max(until - time.monotonic(), 0.0) / max(len(running), 1))

        def rates(size: int = size, seconds: float = seconds) -> Timing:
            failed: dict[str, str] = {}
            found = measure_throughput(
                running, images, device=device, batch_size=size, seconds=seconds, seed=plan.seed, failed=failed
            )
            return {"found": found, "failed": failed, "cut": seconds < plan.seconds, "amount": seconds}

        report(key, i, len(plan.batch_sizes))
        timing = kept.timing(key, entries, until, rates)
        place_rates(size, timing)
        for name in entries.keys() & timing["failed"].keys():
            costs[name].missing[f"throughput.{size}"] = timing["failed"][name]
        saved(costs)
    with energy_meter(device) as joules:
        metered = joules() is not None
    for i, (name, module) in enumerate(running.items()):
        if kept.has(f"energy of/{name}") or (metered and time.monotonic() < deadline):
            one("energy of", name, i, partial(_energy, module, images, device, plan.seconds))
        elif metered:
            costs[name].missing["energy_j"] = f"{TIME_IS_UP} it was measured"
    return costs


def _latency_key(size: int) -> str:
    return f"latency at batch {size}"


def _throughput_key(size: int) -> str:
    return f"throughput at batch {size}"


# What a measurement of one entry gives.
_FIELDS = {
    "counting": ("parameters", "macs", "output_shapes"),
    "memory of": ("peak_memory_bytes",),
    "training memory of": ("training_memory_bytes",),
    "energy of": ("energy_j",),
}


def _counts(
    entry: ProfiledModel, images: Sequence[Tensor], device: torch.device, counted: dict[int, dict[str, Any]]
) -> dict[str, Any]:
    """Counts. What a form leaves as it is is counted once, on the model itself: its parameters always, since an
    inference form holds them as constants; its arithmetic in all but `deploy`.
    """
    model = cast("nn.Module", entry.running.model) if entry.form.engine == "deploy" else entry.model
    if id(model) in counted:
        return counted[id(model)]
    entry.model.to(device)
    on_device = [image.to(device) for image in images]
    found: dict[str, Any] = {"parameters": count_parameters(entry.model), "missing": {}}

    def attempt(name: str, measure: Callable[[], Any]) -> Any:
        try:
            return measure()
        except Exception as e:
            release()
            found["missing"][name] = reason(e)
            return None

    found["parameters"]["in_evaluation"] = attempt(
        "parameters.in_evaluation", lambda: parameters_in_evaluation(entry.model, on_device[:1])
    )
    found["macs"] = attempt("macs", lambda: count_macs(model, on_device))
    found["output_shapes"] = attempt("output_shapes", lambda: output_shapes(entry.model, on_device[0]))
    counted[id(model)] = found
    return found


def _inference_memory(entry: ProfiledModel, images: Sequence[Tensor], device: torch.device) -> dict[str, Any]:
    return {"peak_memory_bytes": peak_memory(entry.running, images, device=device)}


def _training_memory(model: nn.Module, step: Step, device: torch.device) -> dict[str, Any]:
    images, targets = [image for image, _ in step.samples], [target for _, target in step.samples]
    peak = training_memory(model, images, targets, device=device, optimizer=step.optimizer, forward_in=step.forward_in)
    return {"training_batch": len(images), "training_memory_bytes": peak}


def _energy(model: nn.Module, images: Sequence[Tensor], device: torch.device, seconds: float) -> dict[str, Any]:
    return {"energy_j": measure_energy(model, images, device=device, seconds=seconds)}


def as_json(cost: Cost) -> dict[str, Any]:
    """The fields of a cost as JSON has them, without the session that latencies share."""
    content = asdict(cost)
    for latency in (content["latency"], *content["batch_latency"].values()):
        if latency is not None:
            latency.pop("session", None)
    return content
