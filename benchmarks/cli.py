"""What every command shares: exit codes, one-line errors, one console."""

from __future__ import annotations

import codecs
import io
import os
import sys
from collections.abc import Iterable, Sequence
from importlib import metadata

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from benchmarks.errors import DataError, RequestError

# Where there is no terminal, its 80 columns do not bind: tables would be cut in logs.
_WIDTH = None if sys.stdout.isatty() else 140
# What is printed is data: class names, paths, errors, "[yolo]" of a remedy. No markup, emoji codes or numbers to be
# coloured are seen in it; what has a style is a `Text` with that style.
console = Console(width=_WIDTH, markup=False, emoji=False, highlight=False)
err_console = Console(stderr=True, width=_WIDTH, markup=False, emoji=False, highlight=False)

INTERRUPTED = 130


def say(text: str | Text) -> None:
    """Print a line as it is, however long."""
    console.print(text, soft_wrap=True)


def fail(message: str, code: int) -> None:
    """Print one line on stderr and leave with `code`."""
    err_console.print(Text.assemble(("error:", "bold red"), f" {message}"), soft_wrap=True)
    raise SystemExit(code)


def print_table(
    head: Sequence[str], rows: Iterable[Sequence[object]], *, title: str = "", drop: Sequence[str] = ()
) -> list[str]:
    """A table where the console is wide enough for one; else an entry after the other, a line per value.

    Args:
        drop: columns that may be left out to make it fit, in this order; no value of the others is then broken. Without
            any, values may be broken between words.

    Returns:
        The columns that were left out.
    """
    entries = [[str(value) for value in row] for row in rows]
    for dropped in range(len(drop) + 1):
        kept = [i for i, name in enumerate(head) if name not in drop[:dropped]]
        table = Table(title=title or None, title_justify="left")
        for i in kept:
            right = bool(drop) and i > 0
            table.add_column(head[i], no_wrap=bool(drop), justify="right" if right else "left")
        for entry in entries:
            table.add_row(*(entry[i] for i in kept))
        takes = console.measure(table, options=console.options.update(width=10_000))  # unbounded by this console
        if (takes.maximum if drop else takes.minimum) <= console.width:
            console.print(table)
            return list(drop[:dropped])
    if title:
        say(title)
    for entry in entries:
        say(Text(entry[0], "bold"))
        for name, value in zip(head[1:], entry[1:], strict=True):
            if value:
                say(f"  {name}: {value}")
    return []


_PLAINER = str.maketrans({"–": "-", "—": "-", "×": "x", "…": "..."})


def _plainer(error: UnicodeError) -> tuple[str, int]:
    """What a console cannot show, in characters that any can; what we do not use ourselves by its number."""
    assert isinstance(error, UnicodeEncodeError)
    text = error.object[error.start : error.end].translate(_PLAINER)
    return text.encode("ascii", "backslashreplace").decode(), error.end


def prepare_process() -> None:
    """Make this process, and those that it starts, independent of where a command was called.

    Figures are drawn into files: a notebook's MPLBACKEND, inherited, can be one that is not here. Consoles of any
    encoding take what is printed.
    """
    os.environ["MPLBACKEND"] = "agg"
    codecs.register_error("canet-bench.plainer", _plainer)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="canet-bench.plainer")


def run_app(app: typer.Typer) -> None:
    """Run a typer app: RequestError leaves with 2, DataError and OSError with 1, Ctrl-C with 130.

    `--version` alone is answered for every command.
    """
    prepare_process()
    if sys.argv[1:] == ["--version"]:
        say(f"canet-bench {metadata.version('canet-bench')}")
        return
    try:
        app(standalone_mode=True)
    except RequestError as e:
        fail(str(e), 2)
    except (DataError, OSError) as e:
        fail(_os_error(e) if isinstance(e, OSError) else str(e), 1)
    except SystemExit as e:
        if e.code == INTERRUPTED:
            err_console.print("interrupted; run the same command again to go on from here")
        raise


def _os_error(e: OSError) -> str:
    where = f" ({e.filename})" if e.filename else ""
    return f"{e.strerror or e}{where}"
