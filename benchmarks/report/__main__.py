"""`python -m benchmarks.report`: draw reports/ from results/."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from benchmarks.cli import console, run_app
from benchmarks.errors import RequestError

app = typer.Typer(add_completion=False)


@app.command()
def main(
    results: Annotated[Path, typer.Option(help="folder with records")] = Path("results"),
    reports: Annotated[Path, typer.Option(help="folder to draw into")] = Path("reports"),
) -> None:
    """Draw trade_off.svg and summary.md from records."""
    from benchmarks.report import draw

    if not results.is_dir():
        raise RequestError(f"no folder {results}: run it from the repository's root, or name one with --results")
    count = draw.write_all(results, reports)
    console.print(f"{count} records -> {reports / 'trade_off.svg'}, {reports / 'summary.md'}", highlight=False)


if __name__ == "__main__":
    run_app(app)
