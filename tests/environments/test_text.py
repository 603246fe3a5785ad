"""What is printed is data, on consoles of any encoding; MPLBACKEND of a notebook."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.text import Text

from benchmarks import cli
from benchmarks.progress import RunProgress
from tests.environments.conftest import ROOT, environment

MARKED = "a[b]c[/d]"


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp932", "cp850", "utf-8"])
def test_tables_are_printed_on_any_console(monkeypatch, encoding: str) -> None:
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding=encoding))
    cli.prepare_process()
    rows = [("CANet – wide × 2", "0.3–0.5"), ("キズ", "…")]
    cli.print_table(("model", "AP50"), rows, drop=["AP50"])
    cli.say(Text("done –", "green"))
    sys.stdout.flush()
    text = raw.getvalue().decode(encoding)
    assert "done –" in text or "done -" in text
    assert "0.3–0.5" in text or "0.3-0.5" in text
    assert "キズ" in text or r"\u30ad\u30ba" in text


def test_a_backend_of_a_notebook_that_is_not_here() -> None:
    code = (
        "from benchmarks.cli import prepare_process; prepare_process()\n"
        "from benchmarks.report import draw; assert draw.figure([]).startswith(b'<?xml')\n"
        "import matplotlib.pyplot"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment(MPLBACKEND="inline_of_nowhere"), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("module", "arguments"),
    [
        ("run", ("--suite", MARKED)),
        ("run", ("--suite", "smoke", "--model", MARKED)),
        ("run", ("--suite", "smoke", "--model", f"canet:{MARKED}")),
        ("run", ("--suite", "smoke", "--dataset", MARKED)),
        ("run", ("--suite", "smoke", "--tier", MARKED)),
        ("run", ("--suite", "smoke", "--split", MARKED)),
        ("run", ("--suite", "smoke", "--device", MARKED)),
        ("run", ("--suite", "smoke", "--time-limit", MARKED)),
        ("profile", ("--model", MARKED)),
        ("profile", ("--model", "canet", "--form", MARKED)),
        ("profile", ("--model", "canet", "--reference", MARKED)),
        ("profile", ("--suite", MARKED)),
        ("profile", ("--dataset", MARKED, "--model", "canet")),
        ("evaluate", (MARKED,)),
        ("evaluate", ("--detections", "x", "--dataset", MARKED)),
        ("compare", (MARKED, MARKED)),
        ("merge", (MARKED,)),
        ("datasets.__main__", ("show", MARKED)),
        ("datasets.__main__", ("prepare", MARKED, "--from", "x")),
        ("datasets.__main__", ("prepare", "neu_det", "--from", MARKED)),
        ("datasets.__main__", ("stats", MARKED)),
    ],
    ids=lambda value: str(value[0]) if isinstance(value, tuple) and len(value) == 1 else None,
)
def test_an_argument_with_brackets_is_named_as_it_was_given(told, tmp_path, monkeypatch, module, arguments) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CANET_BENCH_DATA", str(tmp_path / "data"))
    code, out, err = told(module, *arguments)
    assert code in (1, 2)
    assert MARKED in "".join((out + err).split()), out + err
    assert "Traceback" not in err


def test_classes_that_differ_in_brackets_are_told_apart(told, tmp_path: Path) -> None:
    source = tmp_path / "in[v2]"
    for part in ("images", "labels"):
        (source / part).mkdir(parents=True)
    classes = ["scratch[deep]", "scratch[light]", MARKED]
    rng = np.random.default_rng(0)
    for i in range(6):
        Image.fromarray(rng.integers(0, 256, (64, 64), dtype=np.uint8)).save(source / "images" / f"p[{i}].png")
        lines = "".join(f"{k} 0.{2 + 2 * k} 0.5 0.2 0.2\n" for k in range(3))
        (source / "labels" / f"p[{i}].txt").write_text(lines)
    (source / "data.yaml").write_text("path: .\ntrain: images\nnames: ['" + "', '".join(classes) + "']\n")
    root = ("--data-root", tmp_path / "data[1]")
    code, out, err = told("datasets.__main__", "prepare", "parts", "--from", source, "--format", "yolo", *root)
    assert code == 0, out + err
    assert "data[1]" in out
    for command in ("show", "stats"):
        code, out, err = told("datasets.__main__", command, "parts", *root)
        assert code == 0, err
        for label in classes:
            assert label in "".join(out.split()), out


def test_what_a_cell_says_and_how_it_ended_is_printed_as_it_is(capsys) -> None:
    with RunProgress(cli.console, 1, 10) as progress:
        progress.start("a", "canet", MARKED, 10)
        progress.handle("a", ("line", {"text": f"left out: {MARKED} :bug:"}))
        progress.end("a", Text.assemble(("failed", "red"), f" needs canet-bench[yolo] {MARKED}"))
    out = capsys.readouterr().out
    assert out.count(MARKED) == 5
    assert "canet-bench[yolo]" in out
    assert ":bug:" in out


def test_no_module_prints_markup_of_its_own() -> None:
    for path in (ROOT / "benchmarks").rglob("*.py"):
        assert "[/]" not in path.read_text(encoding="utf-8"), path
