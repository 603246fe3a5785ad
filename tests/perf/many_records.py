"""How long the reports of many records take, and how long a browser takes to load their page.

    python -m tests.perf.many_records [--records 500] [--trainings 5] [--data-root D]

The records are committed ones with their detections, given other seeds and rates until there are so many, in rows of
`--trainings`; the numbers on that page mean nothing. Each command is a process of its own, from start to end. Times
are of a machine that does nothing else, or they are times of something else.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.store import CellPaths, Stored, read_named, scan, write_atomic, write_record

ROOT = Path(__file__).parents[2]


def multiply(results: Path, out: Path, records: int, trainings: int) -> int:
    """Write `records` records to `out`, rows of `trainings`; how many rows."""
    told = (s for s in scan(results) if s.run.status == "ok" and s.run.metrics and s.paths.detections.exists())
    models = list({s.run.cell.model_copy(update={"seed": 0}).id: s for s in told}.values())
    if not models:
        raise SystemExit(f"{results} holds no record with detections")
    for i in range(records):
        row, seed = divmod(i, trainings)
        _write(models[row % len(models)], out, seed, row // len(models))
    return -(-records // trainings)


def _write(model: Stored, out: Path, seed: int, step: int) -> None:
    recipe = model.run.cell.recipe
    recipe = recipe.model_copy(update={"lr": recipe.lr * (1 + step / 100)})
    cell = model.run.cell.model_copy(update={"seed": seed, "recipe": recipe})
    paths = CellPaths.of(out, cell)
    write_record(paths.record, model.run.model_copy(update={"cell": cell, "cell_id": cell.id}))
    write_atomic(paths.detections, read_named(model.paths.detections, model.run.detections_sha256))
    if model.run.val_detections_sha256 is not None and model.paths.val_detections.exists():
        write_atomic(paths.val_detections, read_named(model.paths.val_detections, model.run.val_detections_sha256))
    if model.profile is not None:
        write_record(paths.profile, model.profile.model_copy(update={"cell_id": cell.id}))


def timed(command: list[str]) -> tuple[float, float]:
    """Seconds of wall clock and of CPU that a command takes; it must end well."""
    before, began = os.times(), time.perf_counter()
    done = subprocess.run([sys.executable, *command], cwd=ROOT, capture_output=True, text=True)
    wall, after = time.perf_counter() - began, os.times()
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {done.returncode}:\n{done.stdout}{done.stderr}")
    return wall, after.children_user + after.children_system - before.children_user - before.children_system


def loads(page: Path, times: int) -> Iterator[tuple[float, float]]:
    """Seconds from asking for the page until it is ready: by our clock, and since navigation by its own."""
    from playwright.sync_api import sync_playwright

    from tests.benchmarks.test_browser import WIDE, chromium

    with sync_playwright() as p:
        browser = p.chromium.launch(executable_path=chromium(), args=["--no-sandbox"])
        for _ in range(times):
            tab: Any = browser.new_page(viewport=WIDE, reduced_motion="reduce")
            began = time.perf_counter()
            tab.goto(page.as_uri())
            tab.wait_for_selector("html[data-ready=yes]")
            wall = time.perf_counter() - began
            yield wall, tab.evaluate("performance.now()") / 1000
            tab.close()
        browser.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=ROOT / "results")
    parser.add_argument("--records", type=int, default=500)
    parser.add_argument("--trainings", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--data-root", type=Path, default=None)
    options = parser.parse_args()
    data = ["--data-root", str(options.data_root)] if options.data_root else []
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder) / "results"
        rows = multiply(options.results, made, options.records, options.trainings)
        print(f"{options.records} records in {rows} rows")
        page = Path(folder) / "page.html"
        commands = {
            "report": ["--reports", str(Path(folder) / "reports")],
            "report --html": ["--html", "--out", str(page), *data],
        }
        for name, extra in commands.items():
            for _ in range(options.rounds):
                wall, cpu = timed(["-m", "benchmarks.report", "--results", str(made), *extra])
                print(f"{name}: {wall:.2f} s, {cpu:.2f} s of CPU", flush=True)
        print(f"the page: {page.stat().st_size / 1e6:.2f} MB")
        for wall, scripts in loads(page, options.rounds):
            print(f"loading: {wall:.2f} s until it is ready, by the page's own clock {scripts:.2f} s", flush=True)


if __name__ == "__main__":
    main()
