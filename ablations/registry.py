"""Registries: a mapping by name in which no name occurs twice."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol, TypeVar


class Named(Protocol):
    @property
    def name(self) -> str: ...


N = TypeVar("N", bound=Named)


def by_name(entries: Iterable[N]) -> dict[str, N]:
    """The entries by their names, in their order. ValueError for a name that occurs twice: one would hide the other."""
    out: dict[str, N] = {}
    for entry in entries:
        if entry.name in out:
            raise ValueError(f"{type(entry).__name__} {entry.name!r} is registered twice; give one another name")
        out[entry.name] = entry
    return out
