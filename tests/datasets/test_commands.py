"""The command line of the data room."""

from __future__ import annotations

import subprocess
import sys

import pytest
from PIL import Image

from benchmarks.datasets import __main__ as commands


def run(capsys, monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["datasets", *map(str, arguments)])
    with pytest.raises(SystemExit) as caught:
        commands.main()
    return caught.value.code, capsys.readouterr()


def test_list_and_show(capsys, monkeypatch, synthetic):
    monkeypatch.setenv("COLUMNS", "150")
    code, told = run(capsys, monkeypatch, "list", "--data-root", synthetic.root.parent)
    assert code in (0, None)
    assert "synthetic_small" in told.out
    assert "neu_det" in told.out
    code, told = run(capsys, monkeypatch, "show", "synthetic_small", "--data-root", synthetic.root.parent)
    assert code in (0, None)
    assert synthetic.manifest_digest[:12] in told.out
    code, told = run(capsys, monkeypatch, "show", "neu_det", "--data-root", synthetic.root.parent)
    assert "may not be passed on" in told.out


def test_prepare_verify_preview(capsys, monkeypatch, synthetic, tmp_path):
    root = synthetic.root.parent
    code, told = run(capsys, monkeypatch, "prepare", "synthetic_small", "--data-root", root)
    assert code in (0, None)
    assert "up to date" in told.out
    code, told = run(capsys, monkeypatch, "verify", "synthetic_small", "--data-root", root)
    assert "301 files" in told.out
    out = tmp_path / "new" / "mosaic.png"
    code, told = run(
        capsys, monkeypatch, "preview", "synthetic_small", "--data-root", root, "--out", out, "--images", 6
    )
    assert code in (0, None)
    assert Image.open(out).width == 720


def test_errors_are_one_line_with_their_exit_code(capsys, monkeypatch, tmp_path):
    (tmp_path / "no.zip").write_text("no zip")
    for arguments, code, message in (
        (("show", "nue_det"), 2, "did you mean 'neu_det'?"),
        (("prepare", "neu_det", "--from", tmp_path / "no.zip"), 1, "not a zip archive"),
        (("prepare", "neu_det", "--from", tmp_path / "none"), 2, "no such file"),
        (("prepare", "neu_det"), 2, "needs its archive"),
        (("verify", "neu_det"), 2, "is not prepared"),
        (("preview", "synthetic_small", "--out", tmp_path / "x.jpg"), 2, "is a PNG"),
    ):
        found, told = run(capsys, monkeypatch, *arguments, "--data-root", tmp_path / "data")
        assert found == code
        assert message in told.err
        assert "Traceback" not in told.err
        assert told.err.strip().count("\n") == 0


def test_help_starts_without_torch():
    script = "import sys; sys.argv = ['x', '--help']\ntry:\n import benchmarks.datasets.__main__ as m; m.main()\n"
    script += "except SystemExit: pass\nassert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", script], check=True, capture_output=True)
