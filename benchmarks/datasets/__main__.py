"""`python -m benchmarks.datasets`: list, show, prepare, verify, preview, splits."""

from __future__ import annotations

import textwrap
from collections import Counter
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from benchmarks.cli import console, run_app
from benchmarks.datasets import catalogue
from benchmarks.errors import RequestError

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False, help=__doc__)

Name = Annotated[str, typer.Argument(help="a name from `list`")]
Root = Annotated[
    Path | None, typer.Option("--data-root", help="where prepared sets lie (default: $CANET_BENCH_DATA or the cache)")
]


def _say(line: str) -> None:
    console.print(line, markup=False, highlight=False, soft_wrap=True)


@app.command("list")
def list_sets(data_root: Root = None) -> None:
    """The catalogue, and what is prepared."""
    from benchmarks.datasets.prepared import is_prepared

    root = catalogue.data_root(data_root)
    table = Table("name", "images", "boxes", "classes", "px", "state", "title")
    for spec in catalogue.CATALOGUE.values():
        state = "prepared" if is_prepared(spec.name, root) else "made when needed" if spec.embedded else "not prepared"
        counts = (f"{spec.images:,}", f"{spec.boxes:,}", str(len(spec.classes)), str(spec.native_size))
        table.add_row(spec.name, *counts, state, spec.title)
    console.print(table)
    _say(f"data root: {root}")


@app.command()
def show(name: Name, data_root: Root = None) -> None:
    """What a set is, what its licence forbids, how to get it."""
    from benchmarks.datasets.prepared import is_prepared, open_prepared

    spec = catalogue.get(name)
    rows = {
        "title": spec.title,
        "classes": ", ".join(spec.classes),
        "images": f"{spec.images:,} with {spec.boxes:,} boxes, longer side {spec.native_size} px",
        "split": f"{spec.split} ({spec.folds} folds)",
        "licence": spec.licence + ("" if spec.redistributable else "; its images may not be passed on"),
        "homepage": spec.homepage,
        "cite": spec.citation,
        "get it": spec.how_to_get,
    }
    if is_prepared(name, data_root):
        data = open_prepared(name, data_root)
        count = Counter(a["category_id"] for a in data.annotations)
        rows["prepared"] = f"{data.root} (manifest {data.manifest_digest[:12]})"
        rows["boxes"] = ", ".join(f"{label} {count[i]:,}" for i, label in enumerate(data.classes, start=1))
    for key, value in rows.items():
        _say(textwrap.fill(value, 108, initial_indent=f"{key:9} ", subsequent_indent=" " * 10, break_on_hyphens=False))


@app.command()
def prepare(
    name: Name,
    source: Annotated[Path | None, typer.Option("--from", help="the set's archive or unpacked folder")] = None,
    data_root: Root = None,
    force: Annotated[bool, typer.Option("--force", help="make it again even if it is up to date")] = False,
) -> None:
    """Put a set under the data root: COCO annotations, images, manifest. Safe to interrupt and to repeat."""
    from benchmarks.datasets import prepared

    prepared.prepare(name, data_root, source, report=_say, force=force)


@app.command()
def verify(name: Name, data_root: Root = None) -> None:
    """Check the digest of every file of a prepared set."""
    from benchmarks.datasets import prepared

    data = prepared.verify(name, data_root)
    _say(f"{name}: {len(data.manifest['files'])} files as prepared, manifest {data.manifest_digest}")


@app.command()
def preview(
    name: Name,
    out: Annotated[Path, typer.Option("--out", help="PNG to write")],
    images: Annotated[int, typer.Option(min=1, help="how many images")] = 24,
    data_root: Root = None,
) -> None:
    """Write a mosaic of images with their boxes."""
    from benchmarks.datasets import prepared
    from benchmarks.datasets.preview import write

    if out.suffix.lower() != ".png":
        raise RequestError(f"--out {out}: the mosaic is a PNG; name it so")
    data = prepared.ensure(name, data_root)
    write(data, out, images)
    _say(f"{out}" + ("" if catalogue.get(name).redistributable else ": for your eyes, the images may not be passed on"))


@app.command()
def splits(
    name: Name,
    out: Annotated[Path | None, typer.Option("--out", help="write the list made here to this file")] = None,
    data_root: Root = None,
) -> None:
    """Make a set's fold list anew, and compare it with the one that is shipped."""
    from benchmarks.datasets import prepared
    from benchmarks.datasets import splits as lists

    data = prepared.ensure(name, data_root)
    content = lists.make_list(data, report=_say)
    table = Table("fold", "images", *data.classes, "defect-free")
    for i, part in enumerate(content["folds"]):
        count = Counter(a["category_id"] for file_name in part for a in data.boxes(file_name))
        clean = sum(not data.boxes(file_name) for file_name in part)
        boxes = [str(count[k]) for k in range(1, len(data.classes) + 1)]
        table.add_row(str(i), str(len(part)), *boxes, str(clean))
    console.print(table)
    groups = content["near_duplicate_groups"]
    _say(f"near-duplicate groups: {len(groups)} with {sum(map(len, groups))} images")
    text = lists.dumps(content)
    shipped = lists.SHIPPED / f"{catalogue.get(name).split}.json"
    if shipped.is_file():
        _say(f"{shipped.name}: {'the same' if shipped.read_text(encoding='utf-8') == text else 'DIFFERS from this'}")
    if out is not None:
        out.write_text(text, encoding="utf-8", newline="\n")
        _say(f"{out}")


def main() -> None:
    run_app(app)


if __name__ == "__main__":
    main()
