"""What extra is missing, and the line that installs it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from benchmarks import extras
from benchmarks.models import MODELS
from canet.efficientnet import INSTALL

PYPROJECT = (Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8")


def test_the_extras_are_those_of_the_project_and_of_its_models() -> None:
    section = PYPROJECT.partition("[project.optional-dependencies]\n")[2].partition("\n\n")[0]
    declared = set(re.findall(r"^(\w+) = \[", section, re.MULTILINE))
    assert extras.MODULES.keys() == declared - {"test", "dev"}
    assert {spec.extra for spec in MODELS.values() if spec.extra} <= extras.MODULES.keys()
    assert extras.install("pretrained") == INSTALL


def test_each_missing_extra_has_one_line_and_its_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    for extra, modules in extras.MODULES.items():
        line = extras.missing(extra)
        assert line == f"{' and '.join(modules)}: python -m pip install -c constraints.txt -e '.[{extra}]'"
    assert extras.missing(None) is None
    assert extras.missing_for({"a": "yolo", "b": None, "c": "yolo"})[0].startswith("models a, c need ultralytics")
    assert "[pretrained]" in (extras.missing_weights("lite0", "imagenet") or "")
    assert extras.missing_weights("lite0", None) is None


def test_of_two_modules_only_the_one_that_is_absent_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "onnxruntime" else object())
    assert extras.missing("onnx") == f"onnxruntime: {extras.install('onnx')}"


def test_an_extra_that_nobody_declared_is_an_error() -> None:
    with pytest.raises(KeyError):
        extras.missing("yollo")
