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
            table.add_column(escape(head[i]), no_wrap=bool(drop), justify="right" if right else "left")
        for entry in entries:
            table.add_row(*(escape(entry[i]) for i in kept))
        takes = console.measure(table, options=console.options.update(width=10_000))  # unbounded by this console
        if (takes.maximum if drop else takes.minimum) <= console.width:
            console.print(table)
            return list(drop[:dropped])
    if title:
        console.print(title, highlight=False)
    for entry in entries:
        console.print(f"[bold]{escape(entry[0])}[/]", soft_wrap=True, highlight=False)
        for name, value in zip(head[1:], entry[1:], strict=True):
            if value:
                console.print(f"  {escape(name)}: {escape(value)}", soft_wrap=True, highlight=False)
    return []


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
