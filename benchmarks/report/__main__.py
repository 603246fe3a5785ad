"""`python -m benchmarks.report`: draw reports/ from results/, or one HTML page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from benchmarks.cli import console, run_app, say
from benchmarks.errors import RequestError

app = typer.Typer(add_completion=False)


@app.command()
def main(
    results: Annotated[Path, typer.Option(help="folder with records")] = Path("results"),
    reports: Annotated[Path, typer.Option(help="folder to draw into")] = Path("reports"),
    html: Annotated[bool, typer.Option("--html", help="one self-contained HTML page instead (extra html)")] = False,
    out: Annotated[
        Path | None, typer.Option(help="the page's file, with --html (default: runs/report/page.html)")
    ] = None,
    with_images: Annotated[bool, typer.Option("--with-images", help="put small test images into the page")] = False,
    data_root: Annotated[Path | None, typer.Option(help="folder with the prepared data sets, for the gallery")] = None,
    cards: Annotated[
        Path | None, typer.Option(help="write a model card per trained model into this folder instead")
    ] = None,
    open_page: Annotated[bool, typer.Option("--open", help="show the page in the browser")] = False,
    serve: Annotated[bool, typer.Option("--serve", help="serve the page's folder to this machine alone")] = False,
) -> None:
    """Draw the figures and the summary from records; or with --html one page, or with --cards model cards."""
    from benchmarks.report import draw

    if not results.is_dir():
        raise RequestError(f"no folder {results}: run it from the repository's root, or name one with --results")
    of_page = {"--open": open_page, "--serve": serve, "--with-images": with_images, "--out": out is not None}
    if not html and (given := [name for name, value in of_page.items() if value]):
        raise RequestError(f"{', '.join(given)}: of the page alone; add --html")
    if cards is not None:
        from benchmarks.report.cards import write_cards

        if html:
            raise RequestError("--cards and --html are two things: ask for one at a time")
        say(f"{len(write_cards(results, cards, data_root))} cards -> {cards}")
        return
    if not html:
        count = draw.write_all(results, reports)
        console.print(f"{count} records -> {reports / 'trade_off.svg'}, {reports / 'summary.md'}", highlight=False)
        return
    from benchmarks.report import page, serving

    out = out or Path("runs/report/page.html")
    count = page.write_page(results, out, data_root=data_root, with_images=with_images, say=say)
    say(f"{count} records -> {out} ({out.stat().st_size / 1e6:.2f} MB)")
    if serve:
        serving.serve(out, open_page=open_page, say=say)
    elif open_page:
        serving.show(out.resolve().as_uri())


if __name__ == "__main__":
    run_app(app)
