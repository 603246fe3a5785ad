"""Whether the kind of machine that trained it moves a model's accuracy, in Markdown. Torch-free."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Hashable, Iterable, Mapping, Sequence

from ablations.effects import Between, between
from benchmarks import models
from benchmarks.cells import apart, digest_of, request_of
from benchmarks.report import budget
from benchmarks.report.escaping import markdown as md
from benchmarks.store import Provenance, RunRecord

METRICS = {"AP50": "AP50", "AP": "AP", "AP_small": "AP small"}
_TRAINED_WITH = (*budget.ALIKE, "builder", "evaluator")

Values = Mapping[str, Sequence[RunRecord]]
"""Trainings of one request, which differ in seed alone, by kind of machine."""


def section(runs: Iterable[RunRecord]) -> list[str]:
    """A table of the models that several kinds of machine trained, and how far these lie apart; [] without any."""
    rows = _rows(runs)
    if not rows:
        return []
    lines = [
        "## Kinds of machine",
        "",
        "| set | model | fold | epochs | AP50 (trainings) by kind of machine |",
        "| --- | --- | ---: | ---: | --- |",
    ]
    pools: dict[tuple[str, str], list[Values]] = defaultdict(list)
    named: dict[tuple[str, str], dict[str, None]] = defaultdict(dict)
    firsts = [next(iter(row.values()))[0] for row in rows]
    names = [(run.cell.dataset, models.label(run.cell.model, run.cell.variant)) for run in firsts]
    places = [(*name, run.cell.fold, run.cell.recipe.epochs) for name, run in zip(names, firsts, strict=True)]
    asides = _asides(places, [_made(run) for run in firsts])
    for row, run, (dataset, label), aside in zip(rows, firsts, names, asides, strict=True):
        shown = "; ".join(f"{kind} {100 * _mean(of):.1f} ({len(of)})" for kind, of in row.items())
        cell = run.cell
        lines.append(f"| {md(dataset)} | {md(label + aside)} | {cell.fold} | {cell.recipe.epochs} | {md(shown)} |")
        recipe = dataset, budget.recipe_of(cell.model_copy(update={"device_class": None}))
        pools[recipe].append(row)
        named[recipe][label] = None
    titles = [(dataset, ", ".join(named[dataset, recipe])) for dataset, recipe in pools]
    facts = [_made(next(iter(pool[0].values()))[0], of_model=False) for pool in pools.values()]
    told = [
        f"- {md(', '.join(title) + aside)}: {'; '.join(_told(pool)) or 'not judged'}."
        for title, aside, pool in zip(titles, _asides(titles, facts), pools.values(), strict=True)
    ]
    return [
        *lines,
        "",
        *told,
        "",
        "SD between kinds of machine (at most: the upper end of its one-sided 95% interval), beside that between "
        "trainings on one kind, of models that share a recipe, in points; F and p of the analysis of variance. 0.0: "
        "the kinds lie no further apart than trainings do. Recipes whose trainings on one kind tell little (fewer than "
        f"{budget.LEAST_FREEDOM} degrees of freedom) are not judged. Trainings that failed or diverged, and those on "
        f"CPUs of which records do not say what vectors they have, are left out.{_versions(rows)}",
        "",
    ]


def _asides(titles: Sequence[Hashable], made: Sequence[Mapping[str, object]]) -> list[str]:
    """After each title what tells it from others of the same."""
    same: dict[Hashable, list[Mapping[str, object]]] = defaultdict(list)
    for title, its in zip(titles, made, strict=True):
        same[title].append(its)
    return [f" ({it})" if (it := apart(its, same[title])) else "" for title, its in zip(titles, made, strict=True)]


def _made(run: RunRecord, of_model: bool = True) -> dict[str, object]:
    """What was asked of a training but its model, length and machine, and the versions that made it."""
    asked = request_of(run.cell)
    facts = {k: v for k, v in asked.items() if k not in ("model", "variant", "epochs", "device_class")}
    versions = (name for name in _TRAINED_WITH if of_model or name != "builder")
    of_set = {"split": run.cell.split, "image_size": run.cell.image_size}
    return {**of_set, **facts, **{name: getattr(run.fingerprint, name) for name in versions}}


def kind(its: Provenance) -> str | None:
    """What decides how a training rounds: the card, or a CPU's widest vectors, or portable arithmetic; None: not known.

    A CPU whose vectors an older record does not name may be of any of the kinds that others are of.
    """
    if its.device != "cpu":
        return its.device_name or its.device.partition(":")[0]
    if its.arithmetic:
        return "CPU, portable arithmetic"
    return f"CPU, {its.cpu_capability}" if its.cpu_capability else None


def _versions(rows: Iterable[Values]) -> str:
    """What else than the kind differs: torch's versions, where a row is of several."""
    mixed = set()
    for row in rows:
        used = {run.provenance.packages.get("torch", "not known") for of in row.values() for run in of}
        mixed |= used if len(used) > 1 else set()
    if not mixed:
        return ""
    return f" Kinds differ in torch's version too ({', '.join(sorted(mixed))}): what is told is of both together."


def _rows(runs: Iterable[RunRecord]) -> list[Values]:
    """Of what more than one kind trained, in the order of sets, models, folds and lengths."""
    found: dict[tuple[object, ...], dict[str, list[RunRecord]]] = {}
    order = {name: i for i, name in enumerate(models.MODELS)}
    for run in runs:
        machine = kind(run.provenance)
        if machine is None or run.status != "ok" or run.metrics is None or run.metrics.AP50 is None:
            continue
        cell = run.cell
        asked = digest_of(cell.model_dump(mode="json", exclude={"seed", "device_class"}))
        made = tuple(str(getattr(run.fingerprint, name)) for name in _TRAINED_WITH)
        place = order.get(cell.model, len(order)), cell.name
        key = cell.dataset, place, cell.fold, cell.recipe.epochs, asked, made
        found.setdefault(key, {}).setdefault(machine, []).append(run)
    return [dict(sorted(row.items())) for _, row in sorted(found.items(), key=lambda item: item[0]) if len(row) > 1]


def _mean(runs: Sequence[RunRecord]) -> float:
    return statistics.fmean(_values(runs, "AP50"))


def _values(runs: Sequence[RunRecord], metric: str) -> list[float]:
    values = (None if run.metrics is None else run.metrics.value(metric) for run in runs)
    return [value for value in values if value is not None]


def _told(pool: Sequence[Values]) -> list[str]:
    out = []
    for metric, label in METRICS.items():
        found = between([[_values(runs, metric) for runs in row.values()] for row in pool])
        if found is not None and found.freedom >= budget.LEAST_FREEDOM:
            out.append(f"{label} {_words(found)}")
    return out


def _words(its: Between) -> str:
    sd, most, within = (f"{100 * value:.1f}" for value in (its.sd, its.most, its.within))
    p = "< 0.01" if its.p < 0.01 else f"= {its.p:.2f}"
    return f"{sd} (at most {most}) beside {within}, F({its.kinds}, {its.freedom}) = {its.F:.2f}, p {p}"
