"""Whether models got more expensive, as far as two measurements can be compared.

What is counted (parameters, shapes, multiply-accumulates, the size of the file) is the same everywhere. What is
measured is compared directly within one session, memory and training time also within one job on one machine (where
`benchmarks.gate.turns` times latency anew); between sessions on machines of one type as a ratio to the session's
reference model; between machine types not at all, and that is said.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from benchmarks.gate.checks import Check, Pair, Verdict, both, equal, equal_bits, machine_type, name_of
from benchmarks.store import Latency, ProfileRecord, Stored
from benchmarks.suites import GateLimits

SESSION_TOLERANCE = 0.25
"""Relative: a median of paired ratios is not the ratio of two medians."""

BATCH, TRAINING_STEP = "time of a batch", "time of a training step"

FLOOR = 0.005
"""Of an image's time from end to end: by how much a tenth of a millisecond of preparing it varies is no regression."""


ROUNDED = 0.1
"""Share by which rounding may change the number of proposals; beyond it, other work is not told from a fault."""


@dataclass(frozen=True)
class Side:
    """All records of a side: a model's cost is told by that of the reference of its session."""

    records: Sequence[Stored]

    def reference(self, profile: ProfileRecord) -> ProfileRecord | None:
        """The profile of the model that the latencies of a session are ratios to."""
        if profile.latency is None:
            return None
        for one in self.records:
            its = one.profile
            if its is not None and its.session == profile.session and one.run.cell.name == profile.latency.reference:
                return its
        return None

    def training_reference(self, stored: Stored, reference: str) -> float | None:
        """Median training time of the reference model, under the same recipe and conditions as a run."""
        cell = stored.run.cell
        times = [
            one.run.timings_s["train"]
            for one in self.records
            if one.run.cell.name == reference
            and one.run.status == "ok"
            and one.run.cell.dataset == cell.dataset
            and one.run.cell.recipe.epochs == cell.recipe.epochs
            and (one.run.cell.scale, one.run.cell.image_size) == (cell.scale, cell.image_size)
            and one.run.cell.tile == cell.tile
            and one.run.shared == stored.run.shared
            and machine_type(one.run.provenance) == machine_type(stored.run.provenance)
            and "train" in one.run.timings_s
        ]
        return statistics.median(times) if times else None


def counted(name: str, old: Stored, new: Stored, limits: GateLimits) -> list[Check]:
    """Of a model's profile what does not depend on the machine."""
    was, now = old.profile, new.profile
    assert was is not None
    assert now is not None
    out: list[Check] = []
    if (shapes := both(out, name, "output shapes", was.output_shapes, now.output_shapes)) is not None:
        out.append(_shapes(name, *shapes))
    a, b = ((its.parameters or {}).get("in_evaluation") for its in (was, now))
    if (pair := both(out, name, "parameters in evaluation", a, b)) is not None:
        out.append(equal(name, "parameters in evaluation", *pair))
    if (macs := both(out, name, "MACs", was.macs, now.macs)) is not None:
        # The work of a two-stage model follows the number of its proposals, which rounding decides.
        spare = 0.0
        if macs[0].proposals and macs[1].proposals and not equal_bits(was.provenance, now.provenance):
            spare = abs(macs[1].proposals - macs[0].proposals) / macs[0].proposals
        for what, c, d in (
            ("MACs", macs[0].macs, macs[1].macs),
            ("activations", macs[0].activations, macs[1].activations),
        ):
            if (values := both(out, name, what, c, d)) is not None:
                change = values[1] / values[0] - 1 if values[0] else float(values[1] != values[0])
                verdict: Verdict = "fail" if abs(change) > limits.macs + spare else "pass"
                if verdict == "pass" and abs(change) > limits.macs and spare > ROUNDED:
                    verdict = "inconclusive"  # no rounding moves the number of proposals so far
                out.append(Check(name, what, verdict, f"{values[0]:.6g}", f"{values[1]:.6g}", change))
    if was.checkpoint_bytes is not None:
        out.append(_grown(name, "file size", limits.file_size, was.checkpoint_bytes, now.checkpoint_bytes))
    return out


def measured(
    name: str, old: Stored, new: Stored, base: Side, head: Side, limits: GateLimits, *, one_job: bool
) -> list[Check]:
    """Of a model's profile what depends on the machine, in the way that the two sessions allow."""
    was, now = old.profile, new.profile
    assert was is not None
    assert now is not None
    machines = machine_type(was.provenance), machine_type(now.provenance)
    if machines[0] != machines[1]:
        return [
            Check(
                name,
                "latency and memory: other machine types are not compared",
                "note",
                _words(machines[0]),
                _words(machines[1]),
            )
        ]
    direct = was.session == now.session or one_job
    out = []
    for what, a, b in (
        ("memory of inference", was.peak_memory_bytes, now.peak_memory_bytes),
        ("memory of training", was.training_memory_bytes, now.training_memory_bytes),
    ):
        if a is None:
            continue
        if direct or b is None:
            out.append(_grown(name, what, limits.memory, a, b))
            continue
        field = "peak_memory_bytes" if what.endswith("inference") else "training_memory_bytes"
        c, d = (
            None if (its := side.reference(profile)) is None else getattr(its, field)
            for side, profile in ((base, was), (head, now))
        )
        if c == a and d == b and _grown(name, what, limits.memory, a, b).verdict == "fail":
            # The reference: to itself it is always 1.
            out.append(Check(name, f"{what}: of the reference itself", "inconclusive", f"{a:,}", f"{b:,}", b / a - 1))
        elif not c or not d:
            out.append(Check(name, f"{what}: no reference in the session", "inconclusive", f"{a:,}", f"{b:,}"))
        else:
            out.append(_above(name, f"{what}, to the reference", (a / c, b / d), limits.memory))
    if was.latency is not None:
        if was.session == now.session and now.latency is not None:
            out += _times(name, was.latency, now.latency, limits)
        if not direct and old.run.cell.name == was.latency.reference:
            what = "latency: of the reference itself, not compared between sessions"
            out.append(Check(name, what, "note", was.session[:12], now.session[:12]))
        else:
            out.append(_ratio(name, was.latency, now.latency, limits.latency_ratio))
    return out


def training_time(
    name: str, pairs: Sequence[Pair], base: Side, head: Side, limits: GateLimits, one_job: bool
) -> list[Check]:
    """What trainings of a row took, by the median: directly in one job, else as a ratio to the reference model's.

    A note for each reason why pairs are left out.
    """
    profiles = (s.profile for s in (*(pair.old for pair in pairs), *base.records))
    reference = next((its.latency.reference for its in profiles if its is not None and its.latency is not None), None)
    told: list[tuple[float, float]] = []
    left: dict[str, int] = {}
    for pair in pairs:
        found = _times_of(pair, base, head, None if one_job else reference, one_job)
        if isinstance(found, str):
            left[found] = left.get(found, 0) + 1
        elif found is not None:
            told.append(found)
    what = "training time" if one_job else "training time, to the reference"
    out = []
    if told:
        medians = statistics.median(was for was, _ in told), statistics.median(now for _, now in told)
        out.append(_above(name, what, medians, limits.training_time))
    for why, count in left.items():
        out.append(Check(name, f"training time not compared: {why}", "note", f"{count} of {len(pairs)} pairs", "-"))
    return out


def _times_of(
    pair: Pair, base: Side, head: Side, reference: str | None, one_job: bool
) -> tuple[float, float] | str | None:
    """Training times of a pair, or their ratios to those of the reference; or why they are not compared.

    None where the base does not say.
    """
    old, new = pair.old, pair.new
    was, now = old.run.timings_s.get("train"), new.run.timings_s.get("train")
    if not was:
        return None
    if (old.run.status, new.run.status) != ("ok", "ok"):
        return "not trained to the end"
    if not now:
        return "not measured"
    if machine_type(old.run.provenance) != machine_type(new.run.provenance):
        return "other machine types, or threads"
    if old.run.shared != new.run.shared:
        return "other trainings beside it"
    if one_job:
        return was, now
    if reference is None:
        return "no profile says which model is the reference"
    if reference == old.run.cell.name:
        return "it is of the reference itself"
    a, b = base.training_reference(old, reference), head.training_reference(new, reference)
    return "no training of the reference under its conditions" if not a or not b else (was / a, now / b)


def _shapes(name: str, old: dict[str, tuple[int, ...]], new: dict[str, tuple[int, ...]]) -> Check:
    """Equal or not; where not, those that differ."""
    if old == new:
        return Check(name, "output shapes", "pass", f"{len(old)} tensors", "the same")
    differ = [k for k in {**old, **new} if old.get(k) != new.get(k)]
    was, now = (", ".join(f"{k} {its.get(k, '-')}" for k in differ) for its in (old, new))
    return Check(name, "output shapes", "fail", was, now)


def _words(machine: tuple[object, ...]) -> str:
    return ", ".join(str(part) for part in machine if part is not None) + " threads"


def _above(name: str, what: str, values: tuple[float, float], limit: float) -> Check:
    change = values[1] / values[0] - 1
    verdict: Verdict = "fail" if change > limit else "pass"
    return Check(name, what, verdict, f"{values[0]:.3g}", f"{values[1]:.3g}", change)


def _grown(name: str, what: str, tolerance: float, old: int, new: int | None) -> Check:
    """Bytes may shrink, and grow by the tolerance. What was not measured again is inconclusive."""
    if new is None:
        return Check(name, what, "inconclusive", f"{old:,}", "not measured")
    change = new / old - 1 if old else float(new > 0)
    return Check(name, what, "fail" if change > tolerance else "pass", f"{old:,}", f"{new:,}", change)


def _times(name: str, old: Latency, new: Latency, limits: GateLimits) -> list[Check]:
    """Each phase of two models that were timed in one session; without the samples, the medians are all there is."""
    was, now = (its.samples_ms or {phase: [ms] for phase, ms in its.p50.items()} for its in (old, new))
    return phases(name, was, now, limits)


def phases(
    name: str, old: Mapping[str, Sequence[float]], new: Mapping[str, Sequence[float]], limits: GateLimits
) -> list[Check]:
    """Milliseconds of two sides by phase, paired by round: fails where the interval of the ratio lies beyond the limit.

    Where only the ratio itself does, nobody can tell. A phase of an image that adds less than FLOOR of its whole time
    passes. `batch` and `training_step` of `benchmarks.gate.one_side` are phases too.
    """
    from benchmarks.cost.clock import paired_ratio  # imports torch

    others = {"batch": (BATCH, limits.batch), "training_step": (TRAINING_STEP, limits.training_step)}
    out = []
    for phase in dict.fromkeys([*old, *new]):
        what, limit = others.get(phase, (f"latency, {phase.replace('_', ' ')}", limits.latency))
        if phase not in old or phase not in new:
            a, b = (f"{statistics.median(its[phase]):.2f} ms" if phase in its else "not measured" for its in (old, new))
            out.append(Check(name, what, "inconclusive", a, b))
            continue
        was, median = old[phase], statistics.median(old[phase])
        if min(was) <= 0:
            continue
        ratio, (low, high) = paired_ratio(new[phase], was)
        verdict: Verdict = "fail" if low > 1 + limit else "inconclusive" if ratio > 1 + limit else "pass"
        if (
            phase not in others
            and "end_to_end" in old
            and median * (ratio - 1) < FLOOR * statistics.median(old["end_to_end"])
        ):
            verdict = "pass"
        span = f"{statistics.median(new[phase]):.2f} ms, x{ratio:.2f} ({low:.2f} to {high:.2f})"
        out.append(Check(name, what, verdict, f"{median:.2f} ms", span, ratio - 1))
    return out


def _ratio(name: str, old: Latency, new: Latency | None, limit: float) -> Check:
    """Latency as a ratio to the session's reference: fails where its interval lies beyond the old one and a tolerance.

    Where only the ratio itself is beyond the tolerance, nobody can tell.
    """
    what, was = "latency ratio", f"{old.ratio:.2f} to {old.reference}"
    if new is None:
        return Check(name, what, "inconclusive", was, "not measured")
    now = f"{new.ratio:.2f} to {new.reference}"
    if new.reference != old.reference:
        return Check(name, what, "inconclusive", was, now)
    slower = new.ratio_interval[0] > old.ratio_interval[1] * (1 + limit)
    verdict: Verdict = "fail" if slower else "inconclusive" if new.ratio > old.ratio * (1 + limit) else "pass"
    return Check(name, what, verdict, was, now, new.ratio / old.ratio - 1)


def sessions(base: Sequence[Stored], head: Sequence[Stored]) -> list[Check]:
    """Whether ratios are those of the times beside them: times of one session, altered alone, give another ratio."""
    out = []
    for which, records in (("base", base), ("head", head)):
        side = Side(records)
        for s in records:
            latency = None if s.profile is None else s.profile.latency
            reference = None if s.profile is None else side.reference(s.profile)
            if latency is None or reference is None or reference.latency is None:
                continue
            of_times = latency.p50["end_to_end"] / reference.latency.p50["end_to_end"]
            apart = max(of_times / latency.ratio, latency.ratio / of_times) > 1 + SESSION_TOLERANCE
            verdict: Verdict = "fail" if apart else "pass"
            what = f"ratio of times ({which})"
            out.append(Check(name_of(s), what, verdict, f"{latency.ratio:.2f}", f"{of_times:.2f}"))
    return out
