"""Libraries that are installed and do not work: found before anything is trained, with the remedy."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import preflight
from benchmarks.errors import RequestError


def test_a_missing_system_library_is_named_with_what_installs_it() -> None:
    error = ImportError("libGL.so.1: cannot open shared object file: No such file or directory")
    wrapped = ImportError(f"the ultralytics library is installed and cannot be imported: {error}")
    for one in (error, wrapped, OSError(str(error))):
        line = preflight._told(one)
        assert "the system has no libGL.so.1" in line
        assert "libgl1" in line
        assert "opencv-python-headless" in line
        assert "\n" not in line


@pytest.mark.slow
def test_a_model_that_cannot_be_built_or_ends_its_process_is_named(tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "shop").mkdir()
    body = "    raise ImportError('libGL.so.1: cannot open shared object file')\n"
    (tmp_path / "shop" / "parts.py").write_text(f"import os\ndef bad(**_):\n{body}def dead(**_):\n    os.abort()\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=":")
    monkeypatch.syspath_prepend(tmp_path)
    wanted = [(f"shop.parts:{name}", "nano", "default", 64, None) for name in ("bad", "dead")]
    with preflight.Libraries(wanted) as libraries, pytest.raises(RequestError) as raised:
        libraries.require()
    assert "model 'shop.parts:bad' cannot be used here: the system has no libGL.so.1" in str(raised.value)
    assert "model 'shop.parts:dead' cannot be used here: building it ended its process with -6" in str(raised.value)


def test_a_signal_to_all_processes_of_a_run_is_no_fault_of_a_model(tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "yard").mkdir()
    (tmp_path / "yard" / "parts.py").write_text(
        "import os, signal\ndef ended(**_):\n    os.kill(os.getpid(), signal.SIGTERM)\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=":")
    monkeypatch.syspath_prepend(tmp_path)
    with preflight.Libraries([("yard.parts:ended", "nano", "default", 64, None)]) as libraries:
        libraries.require()
    assert libraries._child is not None
    assert libraries._child.returncode == -15


def test_models_without_an_extra_start_no_process() -> None:
    with preflight.Libraries([("canet", "nano", "default", 160, None)]) as libraries:
        libraries.require()
    assert libraries._child is None


@pytest.mark.slow
def test_a_model_without_the_weights_that_its_recipe_names_is_named() -> None:
    pytest.importorskip("ultralytics")
    wanted = [("rtdetr_l", "l", "default", 64, "imagenet")]
    with preflight.Libraries(wanted) as libraries, pytest.raises(RequestError, match="--suite baselines"):
        libraries.require()


@pytest.mark.slow
@pytest.mark.yolo
def test_a_weights_file_of_another_model_is_named_before_anything_is_trained(tmp_path: Path) -> None:
    pytest.importorskip("ultralytics")
    from safetensors.torch import save_file

    from benchmarks.models import build_model

    file = tmp_path / "v8.safetensors"
    save_file(build_model("yolov8n", num_classes=2, image_size=64, scale="n").state_dict(), file)
    wanted = [(name, "n", "default", 64, str(file)) for name in ("yolov8n", "yolo11n")]
    with preflight.Libraries(wanted) as libraries, pytest.raises(RequestError) as raised:
        libraries.require()
    assert "model 'yolo11n' cannot be used here" in str(raised.value)
    assert "do not fit" in str(raised.value)
    assert "yolov8n'" not in str(raised.value)
