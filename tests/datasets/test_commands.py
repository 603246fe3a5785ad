"""The command line of the data room."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest
from PIL import Image

from benchmarks.datasets import __main__ as commands
from benchmarks.datasets import catalogue
from tests.datasets.conftest import write_folder
from tests.datasets.test_own import coco_files
from tests.datasets.test_unverified import gc10_files


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
    assert "1401 files" in told.out
    assert "the very images and boxes that our split lists and records" in told.out
    out = tmp_path / "new" / "mosaic.png"
    code, told = run(
        capsys, monkeypatch, "preview", "synthetic_small", "--data-root", root, "--out", out, "--images", 6
    )
    assert code in (0, None)
    assert Image.open(out).width == 738
    code, told = run(capsys, monkeypatch, "preview", "synthetic_small", "--data-root", root, "--images", 2)
    assert Image.open(root / "synthetic_small-preview.png").width > 240


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


def test_a_set_of_ones_own(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("COLUMNS", "200")
    source = write_folder(tmp_path / "s", coco_files())
    root = ("--data-root", tmp_path / "data")
    code, told = run(capsys, monkeypatch, "prepare", "my_parts", "--from", source, *root)
    assert code == 2
    assert "add --from PATH --format auto" in told.err
    code, told = run(capsys, monkeypatch, "prepare", "my_parts", "--from", source, "--format", "auto", *root)
    assert code in (0, None)
    assert "6 images, 5 boxes, 2 classes" in told.out
    for command in ("list",), ("show", "my_parts"), ("verify", "my_parts"):
        code, told = run(capsys, monkeypatch, *command, *root)
        assert code in (0, None)
        assert "my_parts" in told.out
    out = tmp_path / "yolo"
    code, told = run(capsys, monkeypatch, "export", "my_parts", "--format", "yolo", "--fold", 1, "--out", out, *root)
    assert code in (0, None)
    assert "4 train, 1 val, 1 test images" in told.out
    assert (out / "data.yaml").is_file()
    (source / "set/images/0.png").write_bytes(b"no image")
    wrong = ("prepare", "my_parts", "--from", source, "--format", "coco", *root)
    code, told = run(capsys, monkeypatch, *wrong)
    assert code == 1
    assert "--policy corrupt_image=drop" in told.err
    code, told = run(capsys, monkeypatch, *wrong, "--policy", "corrupt_image=drop")
    assert code in (0, None)
    assert "5 images" in told.out
    code, told = run(capsys, monkeypatch, "policies")
    assert "corrupt_image=drop: leave the image out" in told.out


def test_a_set_to_be_had_elsewhere(capsys, monkeypatch, tmp_path):
    root = ("--data-root", tmp_path / "data")
    code, told = run(capsys, monkeypatch, "list", *root)
    assert all(name in told.out for name in catalogue.UNVERIFIED)
    code, told = run(capsys, monkeypatch, "show", "gc10_det", *root)
    assert "unverified" in told.out
    assert "prepare gc10_det --from PATH" in told.out
    code, told = run(capsys, monkeypatch, "prepare", "gc10_det", *root)
    assert code == 2
    assert "needs its archive or folder" in told.err
    code, told = run(capsys, monkeypatch, "verify", "gc10_det", *root)
    assert code == 2
    assert "show gc10_det" in told.err
    source = write_folder(tmp_path / "s", gc10_files())
    code, told = run(capsys, monkeypatch, "prepare", "gc10_det", "--from", source, *root)
    assert code in (0, None)
    assert "split gc10_det-5fold-v1" in told.out
    assert "stated are 2,300 images and 3,563 boxes, NOT as found" in told.out
    code, told = run(capsys, monkeypatch, "prepare", "gc10_det", *root)
    assert code in (0, None)
    assert "up to date" in told.out
    code, told = run(capsys, monkeypatch, "show", "gc10_det", *root)
    assert "GC10-DET" in told.out
    assert "6 with 6 boxes" in told.out


def test_help_starts_without_torch():
    script = "import sys; sys.argv = ['x', '--help']\ntry:\n import benchmarks.datasets.__main__ as m; m.main()\n"
    script += "except SystemExit: pass\nassert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", script], check=True, capture_output=True)


def test_preview_says_which_image_and_which_part(tmp_path):
    from benchmarks.datasets import own, preview

    data = own.prepare("mine", tmp_path / "data", write_folder(tmp_path / "s", coco_files()))
    bare = preview.mosaic(data, 6)
    told = preview.mosaic(data, 6, parts={"0.png": "fold 3"})
    assert bare.size == told.size
    first = (0, 240, 246, 264)  # below the first image
    assert bare.crop(first).tobytes() != told.crop(first).tobytes()
    assert preview.readable("Kratzer äß Трещина") == "Kratzer äß Трещина"
    assert preview.readable("a\u6f22") == r"a\u6f22"  # not an empty box


def test_show_and_splits_know_sets_of_ones_own(capsys, monkeypatch, tmp_path):
    from tests.datasets.test_other_files import parted

    root = ("--data-root", tmp_path / "data")
    source = write_folder(tmp_path / "s", parted("yolo"))
    code, told = run(capsys, monkeypatch, "prepare", "mine", "--from", source, "--format", "auto", *root)
    assert code in (0, None), told.err
    code, told = run(capsys, monkeypatch, "splits", "mine", *root)
    assert "mine-own-v1, the default: 6 train, 2 val, 3 test" in told.out
    assert "mine-5fold-v1: 5 folds" in told.out
    code, told = run(capsys, monkeypatch, "show", "mine", *root)
    assert code in (0, None), told.err
    assert "mine-own-v1" in told.out
    code, told = run(capsys, monkeypatch, "preview", "mine", *root)
    assert code in (0, None), told.err
    code, told = run(capsys, monkeypatch, "stats", "mine", *root)
    assert "nan" not in told.out  # no box of class scratch


def test_version(capsys, monkeypatch):
    _, told = run_plain(capsys, monkeypatch, "--version")
    assert re.fullmatch(r"canet-bench \d+\.\d+\S*", told.out.strip())


def run_plain(capsys, monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["datasets", *arguments])
    return commands.main(), capsys.readouterr()
