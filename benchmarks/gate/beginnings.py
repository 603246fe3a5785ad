"""The losses of a training's first 20 iterations against those of the base: a changed loss, rate or transform shows.

With portable arithmetic, the same packages and threads on both sides they are the same bits. Else rounding differs: it
is small in the first iteration, from weights that are the same, and from then on decides now and then which of two
equally good proposals is sampled. The tolerance of a term is relative to the sum of the losses of that iteration:
`first_losses` in the first, `SOON` times that up to the tenth, `LATER` times from there. Measured on `smoke` under four
settings of the arithmetic; docs/gate.md has the numbers.
"""

from __future__ import annotations

from benchmarks.gate.checks import Check, Pair, equal_bits, name_of
from benchmarks.store import FirstSteps

SOON, LATER = 200, 2000


def tolerance(step: int, first: float) -> float:
    """What a loss term may differ in iteration `step`, from 0, relative to the sum of the losses."""
    return first * (1 if step == 0 else SOON if step < 10 else LATER)


def beginning(pair: Pair, first: float) -> list[Check]:
    """The check of one pair of trainings; none where the base does not say, or the seeds differ."""
    old, new = pair.old.run, pair.new.run
    if old.first_steps is None or not pair.same_seed:
        return []
    name, what = name_of(pair.old), "losses of the first steps"
    if new.first_steps is None:
        return [Check(name, what, "fail", "present", "missing")]
    declared = [
        f"{field} {was} -> {now}"
        for field in ("builder", "recipe", "transforms", "data", "split")
        if (was := getattr(old.fingerprint, field)) != (now := getattr(new.fingerprint, field))
    ]
    exact = equal_bits(old.provenance, new.provenance)
    if exact and old.first_steps == new.first_steps:
        steps = max(old.first_steps.digests, default=0)
        return [Check(name, f"{what}, to the last bit", "pass", f"{steps} steps", f"{steps} steps")]
    found = _first_difference(old.first_steps, new.first_steps, 0.0 if exact else first)
    if found is None and exact:
        known = [its.first_steps.digests if its.first_steps else {} for its in (old, new)]
        steps = min(n for n in known[0] | known[1] if known[0].get(n) != known[1].get(n))
        found = f"{steps} steps", "other bits"
    if found is None:
        return [Check(name, what, "pass", _last(old.first_steps), _last(new.first_steps))]
    if declared:  # other numbers were meant
        return [Check(name, f"{what}: {', '.join(declared)}", "inconclusive", *found)]
    return [Check(name, f"{what}{', to the last bit' if exact else ''}", "fail", *found)]


def _first_difference(old: FirstSteps, new: FirstSteps, first: float) -> tuple[str, str] | None:
    """The first term and step that differ by more than the tolerance, as (base, head)."""
    if set(old.losses) != set(new.losses):
        return ", ".join(sorted(old.losses)), ", ".join(sorted(new.losses))
    steps = len(next(iter(old.losses.values()), ()))
    for term in old.losses:
        lengths = len(old.losses[term]), len(new.losses[term])
        if lengths != (steps, steps):
            return f"{term}: {lengths[0]} steps", f"{lengths[1]} steps"
    for i in range(steps):
        whole = sum(abs(values[i] or 0.0) for values in old.losses.values())
        for term, values in old.losses.items():
            was, now = values[i], new.losses[term][i]
            if was is None or now is None:
                if was is now:
                    continue
            elif abs(now - was) <= tolerance(i, first) * whole:
                continue
            return f"{term} {_number(was)} in step {i + 1}", _number(now)
    return None


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.8g}"


def _last(steps: FirstSteps) -> str:
    values = [terms[-1] or 0.0 for terms in steps.losses.values() if terms]
    return f"{sum(values):.4f}"
