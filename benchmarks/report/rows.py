"""Records summed up into the rows that figures and tables show: one per data set, model and recipe."""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from dataclasses import dataclass

from benchmarks import models
from benchmarks.cells import digest_of
from benchmarks.store import Metrics, Stored

UNTRAINED_BELOW = 0.1
"""AP50 under which a model is shown as untrained, not as bad."""


@dataclass(frozen=True)
class Row:
    """A model under one recipe on one data set; means over its folds and seeds.

    Accuracies are in [0, 1]. `interval` is the bootstrap interval over images of a single run, or
    mean -+ standard deviation over several. None is "not measured".
    """

    dataset: str
    name: str
    label: str
    stage: str
    scale: str
    image_size: int
    epochs: int
    runs: int
    images: int
    AP50: float | None
    interval: tuple[float, float] | None
    AP: float | None
    AP_small: float | None
    parameters: int | None
    macs: float | None
    latency_ms: float | None
    ratio: float | None
    ratio_interval: tuple[float, float] | None
    reference: str | None
    machine: str
    statuses: tuple[str, ...]

    @property
    def untrained(self) -> bool:
        return self.AP50 is not None and self.AP50 < UNTRAINED_BELOW


def rows(records: Iterable[Stored]) -> list[Row]:
    """Rows in the order of data sets, then of the registry, ablations after their model."""
    groups: dict[tuple[str, ...], list[Stored]] = {}
    for stored in records:
        cell = stored.run.cell
        recipe = digest_of([cell.image_size, cell.recipe.model_dump(mode="json")])
        groups.setdefault((cell.dataset, cell.model, cell.variant, cell.scale, recipe), []).append(stored)
    order = {name: i for i, name in enumerate(models.MODELS)}
    out = [_row(group) for _, group in sorted(groups.items())]
    rank = {"default": 0}
    return sorted(
        out,
        key=lambda r: (
            r.dataset,
            order.get(r.name.partition(":")[0], len(order)),
            rank.get(r.name.partition(":")[2] or "default", 1),
            r.name,
            r.image_size,
            r.epochs,
        ),
    )


def _row(group: list[Stored]) -> Row:
    first = group[0].run
    cell = first.cell
    measured = [s.run.metrics for s in group if s.run.metrics is not None]
    profile = next((s.profile for s in group if s.profile is not None), None)
    latency = profile.latency if profile else None
    return Row(
        dataset=cell.dataset,
        name=cell.name,
        label=models.label(cell.model, cell.variant),
        stage=models.get(cell.model).stage,
        scale=cell.scale,
        image_size=cell.image_size,
        epochs=cell.recipe.epochs,
        runs=len(measured),
        images=sum(m.images for m in measured),
        AP50=_mean(m.AP50 for m in measured),
        interval=_interval(measured),
        AP=_mean(m.AP for m in measured),
        AP_small=_mean(m.AP_small for m in measured),
        parameters=next((s.run.model.parameters for s in group if s.run.model), None),
        macs=profile.macs.macs if profile and profile.macs else None,
        latency_ms=latency.p50["end_to_end"] if latency else None,
        ratio=latency.ratio if latency else None,
        ratio_interval=latency.ratio_interval if latency else None,
        reference=latency.reference if latency else None,
        machine=first.provenance.device_name or f"{first.provenance.threads} CPU threads",
        statuses=tuple(sorted({s.run.status for s in group})),
    )


def _mean(values: Iterable[float | None]) -> float | None:
    known = [v for v in values if v is not None]
    return statistics.fmean(known) if known else None


def _interval(measured: list[Metrics]) -> tuple[float, float] | None:
    if len(measured) == 1:
        return measured[0].AP50_interval
    values = [m.AP50 for m in measured if m.AP50 is not None]
    if len(values) < 2:
        return None
    mean, deviation = statistics.fmean(values), statistics.stdev(values)
    return mean - deviation, mean + deviation
