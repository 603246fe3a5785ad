"""What a run will do, done once before it: so that what is missing here is said in the first seconds, not after hours.

Nothing is asked of the system that can be tried: a file is written by the function that writes records, a figure is
drawn by the one that draws, a library is imported and its model built and run. Libraries of extras are tried in a
process of their own, since some end it and most change it. Torch-free until something of torch's is tried.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks import models
from benchmarks.cells import Cell
from benchmarks.errors import DataError, RequestError
from benchmarks.files import lock
from benchmarks.store import CellPaths, set_aside, write_atomic

if TYPE_CHECKING:
    from benchmarks.datasets.prepared import PreparedDataset

CELL_BYTES = 2 * 2**30
"""Memory that a cell may take."""

_PROBE = "preflight"


def require_files(folder: Path, option: str = "--out", *, longest: str = "", locked: bool = False) -> None:
    """RequestError unless files can be made in `folder` as a run makes them; it is made where missing.

    A file is written, replaced, read, mapped and renamed.

    Args:
        option: what names another folder.
        longest: the longest name of a file that will be written there.
        locked: whether processes wait for each other there.
    """
    import numpy as np
    from safetensors import safe_open
    from safetensors.numpy import save

    probe = folder / f"{_PROBE}-{os.getpid()}".ljust(len(longest), "x")
    what = "write into"
    made = [probe]
    try:
        write_atomic(probe, b"")
        content = save({"probe": np.arange(2**15)})
        write_atomic(probe, content)
        what = "read back what was written into"
        if probe.read_bytes() != content:
            raise OSError("it is not what was written")
        what = "map a file of"
        with safe_open(str(probe), framework="np") as f:
            f.get_tensor("probe")
        what = "rename a file of"
        made.append(probe.with_name(set_aside(probe)))
        if locked:
            what = "lock a file of"
            made.append(probe.with_suffix(".lock"))
            with lock(made[-1]):
                pass
    except Exception as e:  # DataError of ours, OSError, and safetensors' own
        why = re.sub(r"^cannot write .*?: |; free or choose.*$", "", (isinstance(e, OSError) and e.strerror) or str(e))
        raise RequestError(f"cannot {what} {folder}: {why}; choose another with {option}") from None
    finally:
        for path in made:
            with contextlib.suppress(OSError):
                path.unlink()


def require_out(out: Path, cells: Sequence[Cell]) -> None:
    """RequestError unless what `cells` leave can be written below `out`."""
    names: dict[Path, str] = {out: "", out / "report": "", out / "_profiles": ""}
    for cell in cells:
        paths = CellPaths.of(out, cell)
        names[paths.record.parent] = max(names.get(paths.record.parent, ""), paths.val_detections.name, key=len)
    for folder, longest in names.items():
        # One that is not there yet is made where the others were; a name that is too long is so everywhere.
        if folder == out or folder.exists():
            require_files(folder, longest=longest or max(names.values(), key=len))


def require_temporary() -> None:
    """RequestError unless a MiB can be written into the folder for temporary files."""
    try:
        folder = tempfile.gettempdir()
        with tempfile.NamedTemporaryFile(prefix=f"{_PROBE}-") as f:
            f.write(bytes(2**20))
            f.flush()
    except OSError as e:
        where = os.environ.get("TMPDIR") or "/tmp"
        where = where if isinstance(e, FileNotFoundError) else folder
        raise RequestError(f"cannot write a MiB into {where}: {e.strerror}; free it or set TMPDIR") from None


def require_figure() -> None:
    """RequestError unless a figure can be drawn."""
    try:
        from benchmarks.report import draw

        draw.figure([])
    except Exception as e:  # whatever a library that is half there raises
        raise RequestError(f"no figure can be drawn: {_told(e)}") from None


def require_operators() -> None:
    """RequestError unless torchvision's compiled operators are there, which every detector runs."""
    try:
        import torch
        import torchvision

        boxes, image = torch.tensor([[0.0, 0.0, 2.0, 2.0]]), torch.zeros(1, 1, 4, 4)
        torchvision.ops.nms(boxes, torch.ones(1), 0.5)
        torchvision.ops.roi_align(image, [boxes], 1)
    except Exception as e:
        raise RequestError(f"torch and torchvision do not work together: {_told(e)}") from None


def require_cache(data: Iterable[PreparedDataset]) -> None:
    """RequestError unless decoded images of sets that memory does not hold can be kept on disk, where they are to."""
    from benchmarks.datasets.loading import CACHE_BYTES
    from benchmarks.datasets.pixels import ENVIRONMENT, disk_budget, is_cached

    for one in data:
        area = sum(image["height"] * image["width"] for image in one.images)
        if 3 * area > CACHE_BYTES and (budget := disk_budget()) and not is_cached(one, budget):
            require_files(one.root.parent / ".cache", f"--data-root, or set {ENVIRONMENT}=0", locked=True)


class Libraries:
    """Builds and runs a model of each builder that comes from an extra or from the user, in another process.

    So it does with a model of each scale that starts from ImageNet weights which are downloaded: a model has none, or
    the network is missing; and with every model that starts from a weights file, which may not be its own. It works
    beside this one until it is asked.

    Args:
        wanted: model, scale of its builder, variant, image size and what it starts from: None, "imagenet" or the path
            of a weights file; the first of each builder, scale and start is taken.
    """

    def __init__(self, wanted: Iterable[tuple[str, str, str, int, str | None]]) -> None:
        first: dict[tuple[str, ...], tuple[str, str, str, int, str | None]] = {}
        for name, scale, variant, size, weights in wanted:
            spec = models.get(name)
            file = weights is not None and weights != "imagenet"
            if spec.extra is not None or models.is_own(name) or file or (weights and scale != "lite0"):
                key: tuple[str, ...] = (spec.builder,)
                if weights is not None:
                    key = (name, scale, variant, weights) if file else (spec.builder, scale, weights)
                first.setdefault(key, (name, scale, variant, size, weights))
        self._wanted = list(first.values())
        self._child: subprocess.Popen[str] | None = None
        if self._wanted:
            self._child = subprocess.Popen(
                [sys.executable, "-m", __name__, json.dumps(self._wanted)],
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                encoding="utf-8",
                errors="replace",
                env={**os.environ, "PYTHONIOENCODING": "utf-8", "OMP_NUM_THREADS": "1"},
            )

    def require(self) -> None:
        """RequestError with a line for each model that cannot be built and run here."""
        if self._child is None:
            return
        told, noise = self._child.communicate()
        answers = [json.loads(line[len(_MARK) :]) for line in told.splitlines() if line.startswith(_MARK)]
        bad = []
        for (name, why), one in zip(answers, self._wanted, strict=False):
            if why:
                random = "; --suite baselines --tier shared starts from random weights"
                remedy = random if one[4] == "imagenet" else ""
                bad.append(f"model {name!r} cannot be used here: {why}{remedy}")
        if len(answers) < len(self._wanted):
            last = next(reversed([line for line in noise.splitlines() if line.strip()]), "")
            name, code = self._wanted[len(answers)][0], self._child.returncode
            if code != -signal.SIGTERM:  # whoever ends a run may signal all of its processes; no model does that
                bad.append(f"model {name!r} cannot be used here: building it ended its process with {code}; {last}")
        if bad:
            raise RequestError("; ".join(bad) + "; or narrow the run with --model")

    def __enter__(self) -> Libraries:
        return self

    def __exit__(self, *error: object) -> None:
        if self._child is not None and self._child.poll() is None:
            self._child.kill()
            self._child.wait()


_MARK = "preflight: "

_DEBIAN = {"libGL.so.1": "libgl1", "libgthread-2.0.so.0": "libglib2.0-0", "libgomp.so.1": "libgomp1"}


def _told(error: BaseException) -> str:
    """One line of what an import or a call raised, with the remedy where it is known."""
    line = " ".join(str(error).split()) or type(error).__name__
    if (found := re.search(r"(lib[\w.+-]+\.so[\w.]*): cannot open shared object", line)) is not None:
        library = found[1]
        package = f", on Debian the package {_DEBIAN[library]}" if library in _DEBIAN else ""
        headless = "; or put opencv-python-headless in the place of opencv-python" if library == "libGL.so.1" else ""
        return f"the system has no {library}: install it{package}{headless}"
    if not isinstance(error, (RequestError, DataError, ImportError)):
        line = f"{type(error).__name__}: {line}"
    return line


def _try(model: str, scale: str, variant: str, image_size: int, weights: str | None = None) -> str:
    """What is wrong with a model; nothing where it can be built and run."""
    try:
        import torch

        built = models.build_model(
            model, num_classes=2, image_size=image_size, scale=scale, variant=variant, weights=weights
        )
        with torch.inference_mode():
            built.eval()([torch.zeros(3, image_size, image_size)])
    except BaseException as e:  # a library may leave with SystemExit
        return _told(e)
    return ""


if __name__ == "__main__":
    for one in json.loads(sys.argv[1]):
        print(_MARK + json.dumps([one[0], _try(*one)]), flush=True)
