"""The two errors a user can mend; every command prints them as one line, without a traceback."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class RequestError(Exception):
    """A wrong request: an unknown name, a missing data set, a missing extra. Exit code 2."""


class DataError(Exception):
    """Bad or damaged input or output: a corrupt image, a broken record, a full disk. Exit code 1."""


def nearest(name: str, names: Iterable[str]) -> str:
    """The hint that ends an "unknown name" message: the closest known names, or all of them."""
    known = sorted(names)
    close = difflib.get_close_matches(name, known, n=3, cutoff=0.6)
    if close:
        return "did you mean " + " or ".join(repr(c) for c in close) + "?"
    return "known: " + ", ".join(known)
