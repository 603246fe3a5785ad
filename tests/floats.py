"""A pytest plugin, `-p tests.floats`: of what is collected, only the tests that compare floats.

A test is one of these when its own source, or that of a function of `tests` which it calls or a fixture which it asks
for, holds one of the comparisons of `COMPARES`.
"""

from __future__ import annotations

import inspect
import re
import types
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

COMPARES = re.compile(
    r"assert_close|allclose|approx\(|torch\.equal|array_equal|\.(item|tolist)\(\) ==|abs\(\)\.max\(\)"
    r"|\.read_bytes\(\) ==|metrics ==|losses"
)

TESTS = str(Path(__file__).parent)


@cache
def compares(function: Callable[..., object]) -> bool:
    """Whether `function`, or a function of `tests` that it names, compares floats."""
    seen: set[Callable[..., object]] = set()
    todo = [inspect.unwrap(function)]
    while todo:
        one = todo.pop()
        if one in seen or not isinstance(one, types.FunctionType) or not one.__code__.co_filename.startswith(TESTS):
            continue
        seen.add(one)
        if COMPARES.search(inspect.getsource(one)):
            return True
        todo += [inspect.unwrap(it) for n in one.__code__.co_names if callable(it := one.__globals__.get(n))]
    return False


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    def chosen(item: pytest.Item) -> bool:
        if not isinstance(item, pytest.Function):
            return True
        fixtures = [definition.func for group in item._fixtureinfo.name2fixturedefs.values() for definition in group]
        return any(compares(it) for it in (item.function, *fixtures))

    config.hook.pytest_deselected(items=[item for item in items if not chosen(item)])
    items[:] = [item for item in items if chosen(item)]
