from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmarks import devices
from benchmarks.devices import device_class, pick_device
from benchmarks.errors import RequestError
from benchmarks.store import now
from tests.benchmarks.conftest import make_record

HERE = Path(devices.__file__).parent


@pytest.mark.parametrize("name", ["gpu", "cudaa", "cpu:x", "mps:99"])
def test_a_device_that_is_not_here_is_one_line(name: str) -> None:
    with pytest.raises(RequestError, match=f"--device {name}: ") as error:
        pick_device(name)
    assert len(str(error.value)) < 200


def test_a_cpu_has_no_class_and_a_card_has_its_name() -> None:
    made = make_record().provenance
    assert device_class("cpu") is device_class(torch.device("cpu")) is device_class(made) is None
    card = made.model_copy(update={"device": "cuda:1", "device_name": "NVIDIA H100 80GB HBM3"})
    assert device_class(card) == "nvidia-h100-80gb-hbm3"
    assert device_class(card.model_copy(update={"device": "mps", "device_name": None})) == "mps"


def test_provenance_names_packages_and_instruction_set() -> None:
    made = devices.provenance(started=now(), device=torch.device("cpu"))
    assert {"torch", "torchvision", "numpy"} <= set(made.packages)
    assert made.cpu_capability == torch.backends.cpu.get_cpu_capability()
    assert made.started <= made.ended
    assert not made.changed_meanwhile
    other = devices.provenance(started=now(), device=torch.device("cpu"), before=devices.SourceState("0" * 40, False))
    assert other.changed_meanwhile
    assert (other.commit, other.dirty) == ("0" * 40, False)


def git(folder: Path, *arguments: str) -> str:
    who = ("-c", "user.name=t", "-c", "user.email=t@example.org")
    done = subprocess.run(["git", *who, *arguments], cwd=folder, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def installed(folder: Path) -> Path:
    """As much of this project as `devices` imports, in `folder`."""
    (folder / "benchmarks").mkdir(parents=True)
    for name in ("__init__", "devices", "store", "cells", "errors", "files", "results"):
        shutil.copy(HERE / f"{name}.py", folder / "benchmarks" / f"{name}.py")
    for name in ("ablations", "baselines", "canet"):  # which lie beside it, or it is not ours
        (folder / name).mkdir()
        (folder / name / "__init__.py").touch()
    return folder


def source_of(folder: Path) -> list:
    code = "import json, benchmarks.devices as d; s = d.source(); print(json.dumps([s.commit, s.dirty]))"
    done = subprocess.run([sys.executable, "-Bc", code], cwd=folder, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def test_a_clone_names_its_commit_and_any_source_that_is_not_in_it(tmp_path: Path) -> None:
    clone = installed(tmp_path / "clone")
    git(clone, "init", "-q")
    git(clone, "add", ".")
    git(clone, "commit", "-qm", "one")
    commit = git(clone, "rev-parse", "HEAD")
    (clone / "results").mkdir()
    (clone / "results" / "r.json").write_text("{}")  # no source
    assert source_of(clone) == [commit, False]
    (clone / "benchmarks" / "mine.py").write_text("")
    assert source_of(clone) == [commit, True]
    (clone / "benchmarks" / "mine.py").unlink()
    with (clone / "benchmarks" / "errors.py").open("a") as f:
        f.write("# changed\n")
    assert source_of(clone) == [commit, True]


@pytest.mark.parametrize("tracked", [False, True], ids=["installed", "vendored"])
def test_another_projects_commit_is_not_ours(tmp_path: Path, tracked: bool) -> None:
    theirs = tmp_path / "theirs"
    site = installed(theirs / "lib")
    git(theirs, "init", "-q")
    (theirs / "their.py").write_text("")
    git(theirs, "add", "." if tracked else "their.py")
    git(theirs, "commit", "-qm", "theirs")
    assert source_of(site) == [None, None]


def test_a_copy_without_version_control_names_the_commit_that_it_was_made_of(tmp_path: Path) -> None:
    clone = installed(tmp_path / "clone")
    git(clone, "init", "-q")
    git(clone, "add", ".")
    git(clone, "commit", "-qm", "one")
    code = "import benchmarks.devices as d; print(d.snapshot(), end='')"
    made = subprocess.run([sys.executable, "-Bc", code], cwd=clone, capture_output=True, text=True, check=True).stdout
    copy = tmp_path / "copy"
    shutil.copytree(clone, copy, ignore=shutil.ignore_patterns(".git"))
    assert source_of(copy) == [None, None]
    (copy / devices.SNAPSHOT).write_text(made)
    assert source_of(copy) == [git(clone, "rev-parse", "HEAD"), False]
    # Also where it came with the .git of another commit.
    git(copy, "init", "-q")
    git(copy, "commit", "-qm", "another", "--allow-empty")
    assert source_of(copy) == [git(clone, "rev-parse", "HEAD"), False]
    shutil.rmtree(copy / ".git")
    (copy / "benchmarks" / "mine.py").write_text("")
    assert source_of(copy)[1] is True
    (copy / "benchmarks" / "mine.py").unlink()
    (copy / "benchmarks" / "errors.py").write_text("changed")
    assert devices._digests(copy) != json.loads(made)["files"]
    (clone / "benchmarks" / "mine.py").write_text("")
    refused = subprocess.run([sys.executable, "-Bc", code], cwd=clone, capture_output=True, text=True, check=False)
    assert "the source differs from its commit" in refused.stderr
