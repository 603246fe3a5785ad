"""What every command shares: exit codes, one-line errors, one console."""

from __future__ import annotations

import sys

import typer
from rich.console import Console

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


def run_app(app: typer.Typer) -> None:
    """Run a typer app: RequestError leaves with 2, DataError and OSError with 1, Ctrl-C with 130."""
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
