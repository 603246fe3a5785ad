"""What every command shares: exit codes, one-line errors, one console."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from importlib import metadata

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from benchmarks.errors import DataError, RequestError

# Where there is no terminal, its 80 columns do not bind: tables would be cut in logs.
_WIDTH = None if sys.stdout.isatty() else 140
console = Console(width=_WIDTH)
err_console = Console(stderr=True, width=_WIDTH)

INTERRUPTED = 130


def fail(message: str, code: int) -> None:
    """Print one line on stderr and leave with `code`."""
    err_console.print(f"[bold red]error:[/] {_escape(message)}", soft_wrap=True, highlight=False)
    raise SystemExit(code)


def print_table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """A table where the console is wide enough for one; else an entry after the other, a line per value."""
    table, entries = Table(*head), [[str(value) for value in row] for row in rows]
    for entry in entries:
        table.add_row(*map(escape, entry))
    if console.measure(table).minimum <= console.width:  # no word is broken
        console.print(table)
        return
    for entry in entries:
        shown = [(name, value) for name, value in zip(head, entry, strict=True) if value]
        console.print(f"[bold]{escape(shown[0][1])}[/]", soft_wrap=True, highlight=False)
        for name, value in shown[1:]:
            console.print(f"  {name}: {escape(value)}", soft_wrap=True, highlight=False)


def run_app(app: typer.Typer) -> None:
    """Run a typer app: RequestError leaves with 2, DataError and OSError with 1, Ctrl-C with 130.

    `--version` alone is answered for every command.
    """
    if sys.argv[1:] == ["--version"]:
        console.print(f"canet-bench {metadata.version('canet-bench')}", highlight=False)
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


def _escape(text: str) -> str:
    return text.replace("[", r"\[")
