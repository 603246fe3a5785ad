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
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from benchmarks.errors import DataError, RequestError
from benchmarks.gate.checks import Check, Pair, machine_type, name_of
from benchmarks.gate.costs import phases
from benchmarks.store import Stored
from benchmarks.suites import GateLimits

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Samples = dict[str, list[float]]
    """Milliseconds by phase, one for each turn."""

LAUNCHES = 3
TURNS = 20
"""Of each side in a launch, and LEAST where they take longer than SECONDS."""
LEAST = 5
SECONDS = 40.0
IMAGES = 16


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
        name, what = name_of(pairs[0].old), "latency in turns"
        pair = next((p for p in pairs if p.old.paths.weights.exists() and p.new.paths.weights.exists()), None)
        if self.base is None or self.head is None:
            side = "base" if self.base is None else "head"
            return [Check(name, what, "inconclusive", "-", f"not timed: no source of the {side} was named")]
        if pair is None:
            return [Check(name, what, "inconclusive", "-", "not timed: the trained weights are gone")]
        if machine_type(pair.old.run.provenance) != machine_type(pair.new.run.provenance):
            return []
        try:
            samples = _samples(pair.old, self.data_root)
            launches = [timed(pair, (self.base, self.head), samples, seed=seed) for seed in range(LAUNCHES)]
        except (DataError, RequestError) as e:
            return [Check(name_of(pair.old), what, "inconclusive", "-", str(e))]
        return judged(name_of(pair.old), launches, limits)


def judged(name: str, launches: Sequence[tuple[Samples, Samples]], limits: GateLimits) -> list[Check]:
    """The phases of all launches together; what one of them does not show, nobody can tell."""
    old, new = (
        {phase: [ms for launch in launches for ms in launch[i][phase]] for phase in launches[0][i]} for i in (0, 1)
    )
    slower = [{c.what for c in phases(name, *launch, limits) if c.verdict != "pass"} for launch in launches]
    return [
        check
        if check.verdict != "fail" or all(check.what in one for one in slower)
        else replace(check, verdict="inconclusive")
        for check in phases(name, old, new, limits)
    ]


def _samples(stored: Stored, data_root: Path | None) -> dict[str, NDArray[Any]]:
    """The first test images of a cell, cut as it cuts them, and a batch of its training images with their targets.

    Returns:
        `image` and a number, `training` and a number: float32 (3, H, W); `boxes` (n, 4), `labels` (n,) of the latter.
    """
    from benchmarks.datasets.loading import DetectionDataset
    from benchmarks.datasets.prepared import ensure
    from benchmarks.datasets.splits import load_split

    cell = stored.run.cell
    split = load_split(cell.dataset, cell.split, cell.fold, data_root)
    tile = cell.tile.size if cell.tile else None
    data = ensure(cell.dataset, data_root)
    tested = DetectionDataset(data, split.test[:IMAGES], tile=tile)
    out = {f"image{i}": tested[i][0].numpy() for i in range(min(IMAGES, len(tested)))}
    labelled = [name for name in split.train if data.boxes(name)][: cell.recipe.batch_size]
    training = DetectionDataset(data, labelled, tile=tile)
    for i in range(len(labelled)):
        image, target = training[i]
        out |= {f"training{i}": image.numpy(), f"boxes{i}": target["boxes"].numpy()}
        out[f"labels{i}"] = target["labels"].numpy()
    return out


def timed(
    pair: Pair,
    checkouts: tuple[Checkout, Checkout],
    arrays: Mapping[str, NDArray[Any]],
    *,
    turns: int = TURNS,
    seed: int = 0,
) -> tuple[Samples, Samples]:
    """Milliseconds of both sides by phase, paired by turn.

    Args:
        seed: of the order within a pair of turns.

    Raises:
        DataError: a side cannot be run.
    """
    import numpy as np

    order = random.Random(seed)
    samples: tuple[Samples, Samples] = ({}, {})
    with tempfile.TemporaryDirectory(prefix="canet-bench-") as folder, contextlib.ExitStack() as stack:
        path = Path(folder) / "samples.npz"
        np.savez(path, **arrays)  # type: ignore[arg-type]  # of numpy's own stub: allow_pickle
        sides = [
            stack.enter_context(_process(which, checkout, stored, path))
            for which, checkout, stored in zip(("base", "head"), checkouts, (pair.old, pair.new), strict=True)
        ]
        for side in sides:
            side.answer()  # it is ready
        began = time.monotonic()
        for turn in range(turns):
            if turn >= LEAST and time.monotonic() - began > SECONDS:
                break
            for which in order.sample((0, 1), 2):
                for phase, ms in sides[which].turn(turn).items():
                    samples[which].setdefault(phase, []).append(statistics.median(ms))
    return samples


@dataclass(frozen=True)
class _Side:
    which: str
    running: subprocess.Popen[str]
    said: IO[str]

    def turn(self, number: int) -> Samples:
        assert self.running.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it has ended; `answer` says why
            print(number, file=self.running.stdin, flush=True)
        found: Samples = json.loads(self.answer())
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
