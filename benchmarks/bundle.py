"""`python -m benchmarks.bundle`: one archive from which a machine of this kind installs and runs offline."""

from __future__ import annotations

import contextlib
import fnmatch
import json
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Iterable, Sequence
from importlib import metadata, resources
from pathlib import Path
from typing import Annotated, Any

import typer
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

from benchmarks import suites
from benchmarks.cli import console, run_app, say
from benchmarks.datasets import catalogue
from benchmarks.datasets.prepared import is_prepared, verify
from benchmarks.devices import SNAPSHOT, snapshot
from benchmarks.errors import DataError, RequestError
from benchmarks.files import sha256_of
from benchmarks.store import now

app = typer.Typer(add_completion=False)

OURS = "canet-bench"
SCHEMA = 1


@app.command()
def main(
    archive: Annotated[Path, typer.Argument(help="the archive, FILE.tar: to write, or with --check to try")],
    suite: Annotated[str, typer.Option(help="what run.sh runs: a suite's name, or a file NAME.yaml")] = "small_defects",
    dataset: Annotated[list[str] | None, typer.Option(help="prepared sets to take along; default: the suite's")] = None,
    extra: Annotated[list[str] | None, typer.Option(help="extras to install; default: what the suite needs")] = None,
    weights: Annotated[list[Path] | None, typer.Option(help="weights files to take along, in weights/")] = None,
    without: Annotated[
        list[str] | None, typer.Option(help="distributions that the other machine has: a name, or a pattern nvidia-*")
    ] = None,
    max_size: Annotated[str | None, typer.Option(help="write nothing larger than this, like 700M or 4.5G")] = None,
    data_root: Annotated[Path | None, typer.Option(help="where prepared data sets lie")] = None,
    find_links: Annotated[list[str] | None, typer.Option(help="folders of wheels that were built here")] = None,
    python: Annotated[
        str | None, typer.Option(help="with --list: another Python, like 3.12; resolved, not tried")
    ] = None,
    list_only: Annotated[bool, typer.Option("--list", help="what would be in it; nothing is written")] = False,
    check: Annotated[
        bool, typer.Option(help="unpack, install and run it, without a network, in an empty home")
    ] = False,
    options: Annotated[
        list[str] | None, typer.Option("--run", help="with --check: options of run.sh; once for each run")
    ] = None,
) -> None:
    """Pack wheels, prepared data and a suite; or try such an archive with the network off."""
    if check:
        _check(archive, [shlex.split(one) for one in options or ("",)])
        return
    if archive.suffix != ".tar":
        raise RequestError(f"{archive}: write it like FILE.tar (wheels and images are compressed already)")
    limit = None if max_size is None else _bytes(max_size)
    root = catalogue.data_root(data_root)
    chosen = suites.load(suite, root)
    extras = sorted(set(extra)) if extra is not None else list(chosen.extras())
    unknown = set(extras) - set(metadata.metadata(OURS).get_all("Provides-Extra") or ())
    if unknown:
        raise RequestError(f"{OURS} has no extra {', '.join(sorted(unknown))}")
    locked = lock(extras, without or ())
    if python is not None and not list_only:
        raise RequestError(
            f"--python {python}: archives are made for the Python that makes them; add --list to resolve"
        )
    if list_only:
        _list(locked, python, find_links or ())
        return
    sets = _sets(dataset, chosen, root)
    for path in weights or ():
        if not path.is_file():
            raise RequestError(f"--weights {path}: no such file")
    names = [path.name for path in weights or ()]
    if twice := [path for path in weights or () if names.count(path.name) > 1]:
        raise RequestError(f"--weights {' and '.join(map(str, twice))}: one name in weights/; rename one of them")
    with tempfile.TemporaryDirectory(prefix="bundle-", dir=archive.resolve().parent) as temporary:
        work = Path(temporary)
        console.print(f"{len(locked)} distributions, as they are installed here")
        source = _own_wheel(work)
        _download(locked, work / "wheels", find_links or ())
        (work / "requirements.txt").write_text("".join(f"{n}=={v}\n" for n, v in sorted(locked.items())))
        (work / "source.json").write_text(source)
        (work / "suite.yaml").write_text(_suite_text(suite), encoding="utf-8")
        for path in weights or ():
            _copy(path, work / "weights" / path.name)
        for name in sets:
            verify(name, root)
            shutil.copytree(root / name, work / "data" / name, ignore=shutil.ignore_patterns(".*", "*.cache"))
        (work / "LICENCES.md").write_text(_licences(locked, sets, root), encoding="utf-8")
        facts = {**here(), "suite": suite, "extras": extras, "datasets": sets, "without": sorted(without or ())}
        (work / "run.sh").write_text(_script(facts))
        (work / "run.sh").chmod(0o755)
        files = sorted(p for p in work.rglob("*") if p.is_file())
        _require_size(files, work, limit)
        listed = {p.relative_to(work).as_posix(): {"bytes": p.stat().st_size, "sha256": sha256_of(p)} for p in files}
        manifest = {"schema": SCHEMA, "made": now(), **facts, "files": listed}
        (work / "MANIFEST.json").write_text(json.dumps(manifest, indent=1) + "\n")
        _write(archive, work, [work / "MANIFEST.json", *files])
    for line in _forbidden(sets, root, locked):
        say(line)
    size = archive.stat().st_size / 1e6
    say(f"{archive}: {size:,.0f} MB; there: tar xf {archive.name} && sh {_stem(archive)}/run.sh")


def here() -> dict[str, str]:
    """For which machines an archive is that is made here."""
    return {
        "python": f"{sys.version_info.major}.{sys.version_info.minor}",
        "system": platform.system(),
        "machine": platform.machine(),
        "libc": " ".join(platform.libc_ver()).strip(),
    }


# ---------------------------------------------------------------- what goes in


def lock(extras: Iterable[str], without: Sequence[str] = ()) -> dict[str, str]:
    """What is installed here of all that this project needs with `extras`: distribution -> version.

    Args:
        without: names, or patterns of them (`nvidia-*`), that are left out, with what only they need.

    Raises:
        RequestError: something is not installed here, or in a version that does not do; or a pattern meets nothing.
    """
    everything = _needed(extras, (), strict=False)
    idle = [pattern for pattern in without if not fnmatch.filter([OURS, *everything], pattern.lower())]
    if idle:
        raise RequestError(f"--without {', '.join(idle)}: nothing that is needed is called so")
    return _needed(extras, without, strict=True)


def _needed(extras: Iterable[str], without: Sequence[str], *, strict: bool) -> dict[str, str]:
    """`lock`; where it is not strict, what is not installed here counts as version ""."""
    found: dict[str, str] = {}
    seen: set[tuple[str, str, str]] = set()
    todo: list[tuple[str, frozenset[str], str]] = [(OURS, frozenset(extras), OURS)]
    while todo:
        name, wanted, by = todo.pop()
        if any(fnmatch.fnmatch(name, pattern.lower()) for pattern in without):
            continue
        try:
            distribution = metadata.distribution(name)
        except metadata.PackageNotFoundError:
            if strict:
                raise RequestError(
                    f"{name}, which {by} needs, is not installed here: install it, then bundle"
                ) from None
            found[name] = ""
            continue
        if name != OURS:
            found[name] = distribution.version
        for line in distribution.requires or ():
            needed = Requirement(line)
            other = canonicalize_name(needed.name)
            for one in wanted | {""}:
                if (name, line, one) in seen or (needed.marker and not needed.marker.evaluate({"extra": one})):
                    continue
                seen.add((name, line, one))
                if strict:
                    _require_version(other, needed.specifier, name)
                todo.append((other, frozenset(needed.extras), name))
    return found


def _require_version(name: str, specifier: SpecifierSet, by: str) -> None:
    with contextlib.suppress(metadata.PackageNotFoundError):  # said where it is looked at, unless it is left out
        if not specifier.contains(version := metadata.version(name), prereleases=True):
            raise RequestError(f"{by} needs {name}{specifier}, and {version} is installed here")


def _sets(dataset: Sequence[str] | None, suite: suites.Suite, root: Path) -> list[str]:
    for name in dataset or ():
        if not is_prepared(name, root):
            raise RequestError(f"data set {name!r} is not prepared under {root}; run: {catalogue.command(name)}")
    if dataset:
        return list(dict.fromkeys(dataset))
    found = []
    for name in suite.datasets:
        if is_prepared(name, root):
            found.append(name)
        elif not catalogue.get(name, root).embedded:
            say(f"{name} is not prepared under {root} and left out; --dataset takes sets of your own")
    return found


def _bytes(text: str) -> int:
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kMGT]?)B?", text.strip())
    if match is None:
        raise RequestError(f"--max-size {text}: write it like 700M or 4.5G")
    return int(float(match[1]) * 1000 ** ("", "k", "M", "G", "T").index(match[2]))


def _suite_text(name: str) -> str:
    if name.endswith((".yaml", ".yml")):
        return Path(name).read_text(encoding="utf-8")
    return (resources.files("benchmarks") / "suites" / f"{name}.yaml").read_text(encoding="utf-8")


def _pip(arguments: Sequence[str], what: str) -> str:
    done = subprocess.run([sys.executable, "-m", "pip", *arguments], capture_output=True, text=True)
    if done.returncode:
        reason = next((line for line in reversed(done.stderr.splitlines()) if "ERROR" in line), done.stderr[-300:])
        raise RequestError(f"{what}: {reason.strip()}")
    return done.stdout


def _download(locked: dict[str, str], folder: Path, links: Sequence[str]) -> None:
    """The wheels of `locked`, nothing else: what has none for this machine is named."""
    wanted = [f"{name}=={version}" for name, version in locked.items()]
    command = ["download", "-q", "--no-deps", "--only-binary", ":all:", "-d", str(folder)]
    command += [part for link in links for part in ("--find-links", link)]
    if wanted:
        _pip([*command, *wanted], "wheels cannot be had (one that was built here is found by --find-links FOLDER)")
    there = {re.sub(r"[-_.]+", "-", p.name.split("-")[0]).lower() for p in folder.glob("*.whl")}
    if missing := sorted(set(locked) - there):
        raise DataError(f"pip brought no wheel of {', '.join(missing)}")


def _own_wheel(work: Path) -> str:
    """This project's wheel, built of the clone that runs; returns what tells its commit where it is installed."""
    root = Path(__file__).parents[1]
    if not (root / "pyproject.toml").is_file():
        raise RequestError("an archive is made from a clone of this project: there is no pyproject.toml beside it")
    with tempfile.TemporaryDirectory() as temporary:
        # setuptools leaves build/ and egg-info beside what it builds.
        clean, unpacked = Path(temporary) / "source", Path(temporary) / "unpacked"
        clean.mkdir()
        for name in ("benchmarks", "canet", "baselines", "ablations"):
            shutil.copytree(root / name, clean / name, ignore=shutil.ignore_patterns("__pycache__"))
        for path in (root / "pyproject.toml", root / "README.md", root / "LICENSE"):
            shutil.copy(path, clean)
        _pip(["wheel", "-q", "--no-deps", "-w", str(work / "wheels"), str(clean)], "this project's wheel")
        (wheel,) = (work / "wheels").glob("canet_bench-*.whl")
        with zipfile.ZipFile(wheel) as content:
            content.extractall(unpacked)
        return snapshot(unpacked)


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(source, target)


def _licences(locked: dict[str, str], sets: Sequence[str], root: Path) -> str:
    lines = [
        "# What is in this archive, and under which licence",
        "",
        "| distribution | version | licence |",
        "|---|---|---|",
    ]
    for name, version in sorted(locked.items()):
        lines.append(f"| {name} | {version} | {licence_of(name)} |")
    lines += ["", "| data set | licence | may be passed on |", "|---|---|---|"]
    for name in sets:
        spec = catalogue.get(name, root)
        lines.append(f"| {name} | {spec.licence} | {'yes' if spec.redistributable else 'no'} |")
    return "\n".join(lines) + "\n"


def licence_of(name: str) -> str:
    """What an installed distribution says of its licence, in a line."""
    facts = metadata.metadata(name)
    known = [*(facts.get_all("License-Expression") or ())]
    known += [c.rpartition(" :: ")[2] for c in facts.get_all("Classifier") or () if c.startswith("License ::")]
    known += [text.strip() for text in facts.get_all("License") or () if text.strip()]
    return known[0].splitlines()[0][:80].replace("|", "/") if known else "not stated"


def _forbidden(sets: Sequence[str], root: Path, locked: dict[str, str]) -> list[str]:
    """What is in the archive that may not, or not freely, be passed on."""
    lines = [
        f"{name} may not be passed on, and this archive with it: {spec.licence}"
        for name, spec in ((name, catalogue.get(name, root)) for name in sets)
        if not spec.redistributable
    ]
    lines += [
        f"{name}: {licence_of(name)}: whoever gets it gets its source on these terms"
        for name in sorted(locked)
        if "AGPL" in licence_of(name) or "Affero" in licence_of(name)
    ]
    if any(name.startswith("nvidia-") for name in locked):
        lines.append("nvidia-*: under NVIDIA's terms; without a GPU, a CPU build of torch makes them needless")
    return lines


def _require_size(files: Sequence[Path], work: Path, limit: int | None) -> None:
    total = sum(p.stat().st_size for p in files)
    if limit is None or total <= limit:
        return
    largest = sorted(files, key=lambda p: -p.stat().st_size)[:5]
    named = ", ".join(f"{p.relative_to(work)} {p.stat().st_size / 1e6:,.0f}" for p in largest)
    raise RequestError(
        f"{total / 1e6:,.0f} MB are more than --max-size {limit / 1e6:,.0f}; nothing is written. The largest, in MB: "
        f"{named}. Leave out by --without NAME what the other machine has"
    )


def _list(locked: dict[str, str], python: str | None, links: Sequence[str]) -> None:
    if python is None:
        for name, version in sorted(locked.items()):
            say(f"{name}=={version}")
        return
    # What only this Python needs (a backport) is none of the other's: it resolves from what is asked for by name.
    with tempfile.TemporaryDirectory() as temporary:
        constraints = Path(temporary) / "constraints.txt"
        constraints.write_text("".join(f"{n}=={v}\n" for n, v in locked.items()))
        command = ["install", "-q", "--dry-run", "--ignore-installed", "--only-binary", ":all:", "--report", "-"]
        command += ["--python-version", python, "--target", temporary, "-c", str(constraints)]
        command += [part for link in links for part in ("--find-links", link)]
        told = _pip([*command, *(f"{n}=={v}" for n, v in locked.items())], f"Python {python}")
    for entry in sorted(json.loads(told)["install"], key=lambda entry: entry["metadata"]["name"].lower()):
        say(f"{entry['metadata']['name']}=={entry['metadata']['version']}")
    say(f"resolved for Python {python}; not installed, not tried")


# ---------------------------------------------------------------- writing and trying


def _stem(archive: Path) -> str:
    return archive.name.removesuffix(".tar")


def _write(archive: Path, work: Path, files: Sequence[Path]) -> None:
    part = archive.with_name(f".{archive.name}.{os.getpid()}.part")
    try:
        with tarfile.open(part, "w") as tar:
            for path in files:
                tar.add(path, f"{_stem(archive)}/{path.relative_to(work).as_posix()}", filter=_nobody)
        os.replace(part, archive)
    finally:
        part.unlink(missing_ok=True)


def _nobody(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    entry.uid = entry.gid = 0
    entry.uname = entry.gname = ""
    return entry


_SCRIPT = r"""#!/bin/sh
# Installs from this folder, without a network, and runs its suite: sh run.sh [options of benchmarks.run]
# PYTHON: another interpreter than python3. CANET_BENCH_OUT: where runs write, instead of ./runs here.
set -eu
here=$(CDPATH= cd -- "$(dirname -- "$0")" && pwd)
python=${PYTHON:-python3}
"$python" - <<'PY'
import platform, sys
made = ("@python@", "@system@", "@machine@")
this = ("%d.%d" % sys.version_info[:2], platform.system(), platform.machine())
if this != made:
    sys.exit("error: this archive is for Python %s on %s %s, and this is Python %s on %s %s; "
             "set PYTHON to an interpreter that fits, or make an archive on a machine like this one" % (made + this))
PY
cd "$here"
if [ ! -e environment/installed ]; then
  "$python" -m venv @system_site@environment || {
    echo "error: $python cannot make an environment: install its venv and ensurepip (python3-venv on Debian)" >&2
    exit 2
  }
  @visible@
  environment/bin/python -m pip install -q --disable-pip-version-check --no-index --no-deps --ignore-installed \
    --find-links wheels -r requirements.txt @ours@
  environment/bin/python - <<'PY'
import sys
from benchmarks.bundle import lock
from benchmarks.errors import RequestError
try:
    lock(@extras@)
except RequestError as e:
    sys.exit(f"error: {e}")
PY
  site=$(environment/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
  cp source.json "$site/@snapshot@"
  touch environment/installed
fi
case " $* " in
  *" --dataset"[\ =]*) ;;
  *) set -- @datasets@ "$@" ;;
esac
exec environment/bin/python -m benchmarks.run --suite suite.yaml --data-root data --out "${CANET_BENCH_OUT:-runs}" "$@"
"""

# An environment that is made of another does not see what lies in that one, unless it is told where.
_BESIDE = """beside=$("$python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
  echo "$beside" >"$(environment/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/beside.pth"
"""


def _script(facts: dict[str, Any]) -> str:
    beside = bool(facts["without"])
    words = {
        "python": facts["python"],
        "system": facts["system"],
        "machine": facts["machine"],
        "extras": repr(facts["extras"]),
        "snapshot": SNAPSHOT,
        "ours": OURS,
        "datasets": " ".join(f"--dataset {shlex.quote(name)}" for name in facts["datasets"]),
        "system_site": "--system-site-packages " if beside else "",
        "visible": _BESIDE.rstrip() if beside else ":  # nothing is left to the other machine",
    }
    text = _SCRIPT
    for word, value in words.items():
        text = text.replace(f"@{word}@", value)
    return text


def _check(archive: Path, runs: Sequence[Sequence[str]]) -> None:
    """Unpack, verify every digest, install in an empty home with the network off, run."""
    if shutil.which("unshare") is None:
        raise RequestError("--check turns the network off by unshare (util-linux), which is not here")
    with tempfile.TemporaryDirectory(prefix="bundle-check-", dir=archive.resolve().parent) as temporary:
        work = Path(temporary)
        try:
            with tarfile.open(archive) as tar:
                # Python 3.11.4 has the filter; an argument of that name is an error before, as on Debian 12.
                tar.extraction_filter = getattr(tarfile, "data_filter", lambda member, path: member)
                tar.extractall(work)
        except (OSError, tarfile.TarError) as e:
            raise DataError(f"{archive} cannot be unpacked: {e}") from None
        folders = [p for p in work.iterdir() if p.is_dir()]
        if len(folders) != 1 or not (folders[0] / "run.sh").is_file():
            raise DataError(f"{archive} is no archive of benchmarks.bundle: it has not one folder with a run.sh")
        (folder,) = folders
        require_whole(folder)
        say(f"{archive}: every file has its digest")
        home = work / "home"
        home.mkdir()
        alone = ["unshare", "-n"] if os.geteuid() == 0 else ["unshare", "-rn"]
        clean = {"PATH": os.environ.get("PATH", os.defpath), "HOME": str(home), "LANG": "C.UTF-8"}
        clean |= {"PYTHON": _interpreter(folder), "PIP_CONFIG_FILE": os.devnull}
        for options in runs:
            done = subprocess.run([*alone, "sh", str(folder / "run.sh"), *options], env=clean, cwd=home)
            if done.returncode:
                raise DataError(f"{archive}: run.sh {shlex.join(options)} ended with exit code {done.returncode}")
        records = [p for p in (folder / "runs").rglob("*.json") if not p.name.startswith(".")]
        say(f"{archive}: installed and run without a network; {len(records)} records and profiles")


def _interpreter(folder: Path) -> str:
    """The one that this environment was made of, which has nothing of it; this one for what needs something of it."""
    if json.loads((folder / "MANIFEST.json").read_bytes())["without"]:
        return sys.executable
    return str(Path(sys.base_prefix) / "bin" / f"python{sys.version_info.major}.{sys.version_info.minor}")


def require_whole(folder: Path) -> None:
    """DataError names the first file of an unpacked archive that is missing, is another, or is not in its manifest."""
    try:
        files = json.loads((folder / "MANIFEST.json").read_bytes())["files"]
    except (OSError, ValueError, KeyError) as e:
        raise DataError(f"{folder / 'MANIFEST.json'}: {type(e).__name__}: {e}") from None
    there = {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()} - {"MANIFEST.json"}
    for name in sorted(there ^ set(files)):
        raise DataError(f"{name} is {'not in the manifest' if name in there else 'missing'}; copy the archive again")
    for name, facts in files.items():
        if sha256_of(folder / name) != facts["sha256"]:
            raise DataError(f"{name} was changed on its way; copy the archive again")


if __name__ == "__main__":
    run_app(app)
