"""Where cells run. Today: one after the other in this process. Knows nothing of torch."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeVar

C = TypeVar("C")
R = TypeVar("R")


def execute(cells: Iterable[C], run: Callable[[C], R]) -> Iterable[R]:
    """Run cells in order and yield each answer as soon as it is there."""
    for cell in cells:
        yield run(cell)
