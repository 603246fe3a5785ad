"""The house itself: each word has one meaning."""

from __future__ import annotations

import ast
from collections import defaultdict
from pathlib import Path

HERE = Path(__file__).parents[1]
FILES = [p for room in ("canet", "baselines", "ablations", "benchmarks") for p in sorted((HERE / room).rglob("*.py"))]


def test_no_two_classes_and_no_two_types_have_one_name() -> None:
    """Top-level classes and type aliases (`X = tuple[...]`), but those of arrays (`Floats`)."""
    places = defaultdict(list)
    for path in FILES:
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ClassDef):
                places[node.name].append(path.relative_to(HERE).as_posix())
            elif isinstance(node, ast.Assign) and isinstance(node.value, ast.Subscript):
                array = "NDArray" in ast.unparse(node.value)
                for target in node.targets:
                    if isinstance(target, ast.Name) and target.id.istitle() and not array:
                        places[target.id].append(path.relative_to(HERE).as_posix())
    assert places["Batch"] == ["canet/contract.py"]
    assert {name: where for name, where in places.items() if len(where) > 1} == {}


def test_no_two_modules_have_one_name() -> None:
    """But for readers, which are called by the format that they read."""
    places = defaultdict(list)
    for path in FILES:
        if not path.stem.startswith("__") and path.parent.name != "readers":
            places[path.stem].append(path.relative_to(HERE).as_posix())
    assert {name: where for name, where in places.items() if len(where) > 1} == {}
