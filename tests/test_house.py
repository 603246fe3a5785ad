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


def test_every_module_is_in_a_layer_and_is_read_by_mypy() -> None:
    """What lint-imports and mypy look at is all that we wrote: a module that nobody lists cannot be left out."""
    text = (HERE / "pyproject.toml").read_text(encoding="utf-8")
    assert '[tool.mypy]\npython_version = "3.11"\nfiles = ["canet", "baselines", "ablations", "benchmarks"]\n' in text
    for room in ("benchmarks", "canet"):
        assert f'type = "layers"\ncontainers = ["{room}"]\nexhaustive = true\n' in text


def test_no_option_is_called_by_its_placeholder() -> None:
    """typer 0.27 takes a metavar that is the parameter's own name in capitals for the option's name: --FORM."""
    bad = []
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.arg) and node.annotation is not None:
                metavars = [
                    k.value.value
                    for call in ast.walk(node.annotation)
                    if isinstance(call, ast.Call)
                    for k in call.keywords
                    if k.arg == "metavar" and isinstance(k.value, ast.Constant)
                ]
                bad += [f"{path.name}: {node.arg}" for m in metavars if m == node.arg.upper()]
    assert not bad
