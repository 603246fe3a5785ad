"""Times of base and head in turns: two processes, each from its own source and packages, asked for a turn at a time.

What else runs on the machine meanwhile slows both: a ratio is of two turns that follow each other, in random order.
Both see the same images, each with the weights that it was trained to. Where in memory a process happens to lie makes
it slower or faster for as long as it lives: both are launched several times, and what is slower is so in each launch.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import IO, Any

from benchmarks.errors import DataError, RequestError
from benchmarks.gate.checks import Check, Pair, machine_type, name_of
from benchmarks.gate.costs import BATCH, TRAINING_STEP, phases
from benchmarks.store import Stored
from benchmarks.suites import GateLimits

Samples = dict[str, list[float]]
"""Milliseconds by phase, one for each turn."""

LAUNCHES = 3
TURNS = 20
"""Of each side and kind in a launch; where they take longer than SECONDS fewer, but LEAST at least."""
LEAST = 5
SECONDS = 40.0
IMAGES = 16
KINDS = {"image": "latency", "batch": BATCH, "step": TRAINING_STEP}
"""What is asked for, and what it is called in checks."""


@dataclass(frozen=True)
class Checkout:
    """The source of a side, the interpreter with its packages, and the variables that it is run with."""

    source: Path
    python: Path = Path(sys.executable)
    environment: Mapping[str, str] = field(default_factory=lambda: dict(os.environ))


@dataclass(frozen=True)
class Turns:
    """How the trained models of both sides are timed.

    base, head: None where nobody knows from which source a side was trained.
    """

    base: Checkout | None
    head: Checkout | None
    data_root: Path | None = None

    def checks(self, pairs: Sequence[Pair], limits: GateLimits) -> list[Check]:
        """Of the first pair of a row whose weights are both there."""
        if not pairs:
            return []
        name, what = name_of(pairs[0].old), "times in turns"
        pair = next((p for p in pairs if p.old.paths.weights.exists() and p.new.paths.weights.exists()), None)
        if self.base is None or self.head is None:
            side = "base" if self.base is None else "head"
            return [Check(name, what, "inconclusive", "-", f"not timed: no source of the {side} was named")]
        if pair is None:
            return [Check(name, what, "inconclusive", "-", "not timed: the trained weights are gone")]
        if machine_type(pair.old.run.provenance) != machine_type(pair.new.run.provenance):
            return []
        name = name_of(pair.old)
        try:
            with tempfile.TemporaryDirectory(prefix="canet-bench-") as folder:
                samples = _write_samples(Path(folder) / "samples.npz", pair, self.data_root)
                launches = [timed(pair, (self.base, self.head), samples, seed=seed) for seed in range(LAUNCHES)]
        except (DataError, RequestError) as e:
            return [Check(name, what, "inconclusive", "-", str(e))]
        return judged(name, launches, limits)


@dataclass(frozen=True)
class Launch:
    """Milliseconds of both sides by phase, paired by turn; and of the kinds that were not timed why, for each side."""

    samples: tuple[Samples, Samples]
    not_timed: Mapping[str, tuple[str | None, str | None]] = field(default_factory=dict)


def judged(name: str, launches: Sequence[Launch], limits: GateLimits) -> list[Check]:
    """The phases of all launches together; what one of them does not show, nobody can tell."""
    kept = [
        {phase for phase in launches[0].samples[i] if all(phase in launch.samples[i] for launch in launches)}
        for i in (0, 1)
    ]
    each = [
        [{phase: ms for phase, ms in launch.samples[i].items() if phase in kept[i]} for i in (0, 1)]
        for launch in launches
    ]
    old, new = ({phase: [ms for one in each for ms in one[i][phase]] for phase in each[0][i]} for i in (0, 1))
    slower = [{c.what for c in phases(name, one[0], one[1], limits) if c.verdict != "pass"} for one in each]
    checks = [
        check
        if check.verdict != "fail" or all(check.what in one for one in slower)
        else replace(check, verdict="inconclusive")
        for check in phases(name, old, new, limits)
    ]
    for kind, what in KINDS.items():
        why = next((launch.not_timed[kind] for launch in launches if kind in launch.not_timed), None)
        if why is not None:
            meant = all(one is not None and not one.startswith("it failed") for one in why)
            base, head = (f"not timed: {one}" if one else "-" for one in why)
            checks.append(Check(name, what, "note" if meant else "inconclusive", base, head))
    return checks


def _write_samples(path: Path, pair: Pair, data_root: Path | None) -> Path:
    """Write the first test images of the base's cell, cut as it cuts them, and a batch of its labelled training images.

    As arrays `image` and a number, `training` and a number: float32 (3, H, W); `boxes` (n, 4), `labels` (n,) of the
    latter, which are left out where the two sides train on other batches.
    """
    import numpy as np

    from benchmarks.datasets.loading import DetectionDataset
    from benchmarks.datasets.prepared import ensure
    from benchmarks.datasets.splits import load_split

    cell = pair.old.run.cell
    split = load_split(cell.dataset, cell.split, cell.fold, data_root)
    tile = cell.tile.size if cell.tile else None
    data = ensure(cell.dataset, data_root)
    tested = DetectionDataset(data, split.test[:IMAGES], tile=tile)
    out = {f"image{i}": tested[i][0].numpy() for i in range(min(IMAGES, len(tested)))}
    if _batch(pair.old) == _batch(pair.new):
        training = DetectionDataset(data, [name for name in split.train if data.boxes(name)], tile=tile)
        items = (training[i] for i in range(len(training)))
        labelled = (item for item in items if len(item[1]["boxes"]))  # a window of an image may hold no box
        for i, (image, target) in enumerate(islice(labelled, cell.recipe.batch_size)):
            out |= {f"training{i}": image.numpy(), f"boxes{i}": target["boxes"].numpy()}
            out[f"labels{i}"] = target["labels"].numpy()
    np.savez(path, **out)  # type: ignore[arg-type]  # of numpy's own stub: allow_pickle
    return path


def _batch(stored: Stored) -> tuple[object, ...]:
    cell = stored.run.cell
    return cell.dataset, cell.image_size, cell.tile, cell.recipe.batch_size


def timed(
    pair: Pair, checkouts: tuple[Checkout, Checkout], samples: Path, *, turns: int = TURNS, seed: int = 0
) -> Launch:
    """One launch of both sides: an image at a time, then batches, then training steps, each in turns.

    Args:
        samples: as `_write_samples` writes them.
        seed: of the order within a pair of turns.

    Raises:
        DataError: a side cannot be run.
    """
    order = random.Random(seed)
    found: tuple[Samples, Samples] = ({}, {})
    with contextlib.ExitStack() as stack:
        sides = [
            stack.enter_context(_process(which, checkout, stored, samples))
            for which, checkout, stored in zip(("base", "head"), checkouts, (pair.old, pair.new), strict=True)
        ]
        for side in sides:
            side.answer()  # it is ready
        not_timed = {}
        for kind in KINDS:
            own, why = _in_turns(sides, kind, turns, order)
            if why == (None, None):
                for which in (0, 1):
                    found[which].update(own[which])
            else:
                not_timed[kind] = why
    return Launch(found, not_timed)


def _in_turns(
    sides: Sequence[_Side], kind: str, turns: int, order: random.Random
) -> tuple[tuple[Samples, Samples], tuple[str | None, str | None]]:
    """Milliseconds of both sides by phase; and for each side why it has none, with which the turns end."""
    samples: tuple[Samples, Samples] = ({}, {})
    why: list[str | None] = [None, None]
    began = time.monotonic()
    for turn in range(turns):
        if why != [None, None] or (turn >= LEAST and time.monotonic() - began > SECONDS):
            break
        for which in order.sample((0, 1), 2):
            answer = sides[which].turn(kind, turn)
            why[which] = answer.pop("not timed", None)
            for phase, ms in answer.items():
                samples[which].setdefault(phase, []).append(statistics.median(ms))
    return samples, (why[0], why[1])


@dataclass(frozen=True)
class _Side:
    which: str
    running: subprocess.Popen[str]
    said: IO[str]

    def turn(self, kind: str, number: int) -> dict[str, Any]:
        assert self.running.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it has ended; `answer` says why
            print(kind, number, file=self.running.stdin, flush=True)
        found: dict[str, Any] = json.loads(self.answer())
        return found

    def answer(self) -> str:
        assert self.running.stdout is not None
        if line := self.running.stdout.readline():
            return line
        self.running.wait()
        self.said.seek(0)
        last = [text for text in self.said.read().splitlines() if text.strip()][-1:]
        raise DataError(f"the {self.which} cannot be timed: {''.join(last) or 'it ended without a word'}")


@contextlib.contextmanager
def _process(which: str, checkout: Checkout, stored: Stored, arrays: Path) -> Iterator[_Side]:
    """A process of a side, which has begun to load its model; it is gone afterwards."""
    its = stored.run.provenance
    asked = {
        "weights": str(stored.paths.weights.resolve()),
        "samples": str(arrays),
        "device": its.device,
        "threads": its.threads,
    }
    program = Path(__file__).with_name("one_side.py").read_text(encoding="utf-8")
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as said:
        try:
            running = subprocess.Popen(
                # As text: what is imported is then looked for in the checkout first, and not beside this module.
                [str(checkout.python), "-c", program, json.dumps(asked)],
                cwd=checkout.source,
                env=dict(checkout.environment),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=said,
                text=True,
                encoding="utf-8",
            )
        except OSError as e:
            raise DataError(f"the {which} cannot be timed: {checkout.python}: {e.strerror or e}") from None
        try:
            yield _Side(which, running, said)
        finally:
            running.kill()  # it holds nothing that must be saved
            running.communicate()
