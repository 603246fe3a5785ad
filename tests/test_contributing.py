"""CONTRIBUTING's examples do what they say when they are applied, and no name hides another."""

from __future__ import annotations

import re
import sys
import types
from pathlib import Path

import pytest
import torch

import baselines
from ablations.registry import by_name
from ablations.variants import VARIANTS, Variant
from benchmarks import models, suites
from benchmarks.datasets.catalogue import CATALOGUE, UNVERIFIED

ROOT = Path(__file__).parents[1]


def examples() -> dict[str, list[str]]:
    """Diffs of CONTRIBUTING by the file that their first line names."""
    blocks = re.findall(r"```diff\n # (\S+)\n(.*?)```", (ROOT / "CONTRIBUTING.md").read_text(), re.DOTALL)
    return {name: body.splitlines() for name, body in blocks}


def applied(name: str) -> str:
    """The file after its diff; what the diff expects there must be there, once."""
    lines = examples()[name]
    before = "".join(line[1:] + "\n" for line in lines if line[0] in " -")
    after = "".join(line[1:] + "\n" for line in lines if line[0] in " +")
    if not before:
        assert not (ROOT / name).exists()
        return after
    text = (ROOT / name).read_text()
    assert text.count(before) == 1
    return text.replace(before, after)


def executed(name: str, monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    """The changed file as a module of another name."""
    module = types.ModuleType("changed")
    module.__file__ = str(ROOT / name)
    monkeypatch.setitem(sys.modules, "changed", module)
    exec(compile(applied(name), name, "exec"), module.__dict__)
    return module


def test_a_model_is_a_builder_and_an_entry(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "my_detector.py").write_text(applied("baselines/my_detector.py"))
    monkeypatch.setattr(baselines, "__path__", [*baselines.__path__, str(tmp_path)])
    changed = executed("benchmarks/models.py", monkeypatch)
    assert changed.MODELS.keys() - models.MODELS.keys() == {"my_detector"}
    model = changed.build_model("my_detector", num_classes=2, image_size=64, scale="nano").eval()
    with torch.no_grad():
        (found,) = model([torch.rand(3, 64, 64)])
    assert set(found) == {"boxes", "scores", "labels"}
    monkeypatch.delitem(sys.modules, "baselines.my_detector")


def test_an_ablation_is_an_entry(monkeypatch: pytest.MonkeyPatch) -> None:
    from canet.config import CANetConfig

    changed = executed("ablations/variants.py", monkeypatch)
    assert changed.VARIANTS.keys() - VARIANTS.keys() == {"two_heads"}
    assert changed.apply("two_heads", CANetConfig()).sae_heads == 2


def test_a_suite_is_a_file(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(applied("benchmarks/suites/small_defects.yaml"))
    assert "deep_pcb" in suites.load(str(file)).datasets


def test_a_name_that_occurs_twice_is_an_error() -> None:
    twice = (Variant("fpn", "one", "A"), Variant("no_sae", "two", "B"), Variant("fpn", "three", "C"))
    assert list(by_name(twice[:2])) == ["fpn", "no_sae"]
    with pytest.raises(ValueError, match="Variant 'fpn' is registered twice"):
        by_name(twice)
    assert not CATALOGUE.keys() & UNVERIFIED.keys()


@pytest.mark.parametrize(
    ("file", "entry"),
    [
        ("benchmarks/models.py", 'ModelSpec("fcos", "x:y", "FCOS", "fcos", "one-stage", 1, _ALL),'),
        ("ablations/variants.py", 'Variant("fpn", "again", "again"),'),
    ],
)
def test_registering_a_name_again_fails_at_import(file: str, entry: str, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (ROOT / file).read_text()
    start = re.search(r"= by_name\(\n    \(\n", text)
    assert start is not None
    module = types.ModuleType("changed")
    monkeypatch.setitem(sys.modules, "changed", module)
    code = compile(text[: start.end()] + entry + "\n" + text[start.end() :], file, "exec")
    with pytest.raises(ValueError, match="is registered twice"):
        exec(code, module.__dict__)
