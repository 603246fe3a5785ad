"""`python -m benchmarks.doctor`: what a run will meet on this machine, tried in seconds."""

from __future__ import annotations

import multiprocessing
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from benchmarks import host, models, preflight, running
from benchmarks.cli import run_app, say
from benchmarks.datasets import catalogue
from benchmarks.devices import pick_device
from benchmarks.errors import DataError, RequestError
from benchmarks.executors import Ended
from benchmarks.executors.processes import Processes
from benchmarks.progress import CellProgress

app = typer.Typer(add_completion=False)

_OF_EXTRAS = {"yolo": "yolov8n", "transformers": "dfine", "mmdet": "atss"}


@app.command()
def main(
    out: Annotated[Path, typer.Option(help="where runs write")] = Path("runs"),
    data_root: Annotated[Path | None, typer.Option(help="where prepared data sets lie")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1 ...")] = "auto",
) -> None:
    """Try what runs do: import and run models, write files, start processes, draw. Exit 1 when something fails."""
    checks: list[tuple[str, Callable[[], str | None]]] = [
        ("Python", lambda: f"{sys.version.split()[0]}, {Path(__file__).parent}"),
        ("cores and memory", _machine),
        ("console", _console),
        ("temporary files", preflight.require_temporary),
        (f"files in {out}", lambda: _out(out)),
        ("data root", lambda: _data_root(data_root)),
        ("processes", _processes),
        ("figures", preflight.require_figure),
        ("torch and torchvision", _torch),
        ("device", lambda: str(pick_device(device))),
        *((f"extra {extra}", lambda extra=extra: _extra(extra)) for extra in _OF_EXTRAS),
    ]
    bad = 0
    for what, check in checks:
        try:
            facts = check()
            say(Text.assemble(("ok    ", "green"), what if facts is None else f"{what}: {facts}"))
        except (RequestError, DataError, OSError, ImportError) as e:
            bad += 1
            say(Text.assemble(("FAILS ", "red"), f"{what}: {e}"))
    if bad:
        raise typer.Exit(1)


def _machine() -> str:
    free, limit = host.memory(), host.memory_limit()
    allowed = "" if limit is None else f" of the {limit / 2**20:,.0f} that its control group allows"
    line = f"{host.cores()} cores, {free / 2**20:,.0f} MiB free{allowed}"
    if free < preflight.CELL_BYTES:
        raise RequestError(f"{line}; a cell may take {preflight.CELL_BYTES / 2**20:,.0f}: free some, or allow more")
    return line


def _console() -> str:
    encoding = sys.stdout.encoding
    try:
        "–×".encode(encoding)
    except UnicodeEncodeError:
        return f"{encoding}, which lacks characters; they are written in others"
    return encoding


def _out(out: Path) -> str:
    preflight.require_out(out, ())
    killed = list[str]()
    with running.marked(out, killed.append):
        pass
    return "; ".join(["written, mapped, renamed", *killed])


def _data_root(given: Path | None) -> str:
    root = catalogue.data_root(given)
    preflight.require_files(root, "--data-root (sets that are prepared here can be used)", locked=True)
    own = ", ".join(path.parent.name for path in catalogue.files_of(root, "*/manifest.json"))
    return f"{root}: written, mapped, renamed, locked; prepared: {own or 'nothing yet'}"


def _processes() -> str:
    ended = list[Ended[None]]()
    Processes(_nothing, 1).run([None], lambda event: ended.append(event) if isinstance(event, Ended) else None)
    if [event.cause for event in ended] != ["done"]:
        raise RequestError(f"a worker process cannot work: {ended[0].how}")
    return f"one was started and has answered; loaders start by {multiprocessing.get_start_method()}"


def _nothing(job: None, progress: CellProgress) -> bool:
    return True


def _torch() -> str:
    preflight.require_operators()
    import torch
    import torchvision

    return f"{torch.__version__}, {torchvision.__version__}"


def _extra(extra: str) -> str:
    name = _OF_EXTRAS[extra]
    if (missing := models.missing_extra(name)) is not None:
        return f"not there; {missing}"
    with preflight.Libraries([(name, models.get(name).scale("nano"), "default", 160, None)]) as library:
        library.require()
    return f"{name} was built and run"


if __name__ == "__main__":
    run_app(app)
