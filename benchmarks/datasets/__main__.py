"""`python -m benchmarks.datasets`: what data there is, preparing and checking it, split lists, export."""

from __future__ import annotations

import textwrap
from collections import Counter
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from benchmarks.cli import console, run_app
from benchmarks.datasets import catalogue
from benchmarks.errors import DataError, RequestError, nearest

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
    for spec in [*catalogue.CATALOGUE.values(), *catalogue.own_sets(root).values()]:
        state = "prepared" if is_prepared(spec.name, root) else "made when needed" if spec.embedded else "not prepared"
        counts = (f"{spec.images:,}", f"{spec.boxes:,}", str(len(spec.classes)), str(spec.native_size))
        table.add_row(spec.name, *counts, state, spec.title)
    console.print(table)
    for guide in catalogue.ELSEWHERE.values():
        if guide.name not in catalogue.own_sets(root):
            _say(f"to be had elsewhere, unverified: {guide.name} ({guide.title}; {guide.stated})")
    _say(f"data root: {root}")


@app.command()
def show(name: Name, data_root: Root = None) -> None:
    """What a set is, what its licence forbids, how to get it."""
    from benchmarks.datasets.prepared import is_prepared, open_prepared

    if name in catalogue.ELSEWHERE and not _prepared(name, data_root):
        guide = catalogue.ELSEWHERE[name]
        _rows(
            {
                "title": guide.title,
                "stated": f"{guide.stated}; unverified here",
                "licence": guide.licence,
                "homepage": guide.homepage,
                "cite": guide.citation,
                "get it": guide.how_to_get,
                "then": f"python -m benchmarks.datasets prepare {name} --from PATH",
            }
        )
        return
    spec = catalogue.get(name, data_root)
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
    rows = {key: value for key, value in rows.items() if value}
    if is_prepared(name, data_root):
        data = open_prepared(name, data_root)
        count = Counter(a["category_id"] for a in data.annotations)
        rows["prepared"] = f"{data.root} (manifest {data.manifest_digest[:12]})"
        rows["boxes"] = ", ".join(f"{label} {count[i]:,}" for i, label in enumerate(data.classes, start=1))
    _rows(rows)


def _prepared(name: str, root: Path | None) -> bool:
    return name in catalogue.own_sets(root)


def _rows(rows: dict[str, str]) -> None:
    for key, value in rows.items():
        _say(textwrap.fill(value, 108, initial_indent=f"{key:9} ", subsequent_indent=" " * 10, break_on_hyphens=False))


@app.command()
def prepare(
    name: Name,
    source: Annotated[Path | None, typer.Option("--from", help="an archive or unpacked folder")] = None,
    form: Annotated[
        str | None, typer.Option("--format", help="for a set of your own: coco, voc, yolo, or auto to find out")
    ] = None,
    policy: Annotated[
        list[str] | None,
        typer.Option(
            "--policy", help="KIND=ACTION, what to do about a finding instead of refusing the set; see `policies`"
        ),
    ] = None,
    findings: Annotated[Path | None, typer.Option("--findings", help="write all findings to this JSON file")] = None,
    overlaps: Annotated[
        bool, typer.Option("--overlaps", help="for a set of your own: keep crops that show the same place in one fold")
    ] = False,
    data_root: Root = None,
    force: Annotated[bool, typer.Option("--force", help="make it again even if it is up to date")] = False,
) -> None:
    """Put a set under the data root: COCO annotations, images, manifest. Safe to interrupt and to repeat.

    A set of your own, in COCO, VOC or YOLO files, needs --from PATH --format auto and can then be used by its name.
    """
    from benchmarks.datasets import own, prepared
    from benchmarks.datasets.findings import parse_policy

    chosen = parse_policy(policy or [])
    if name in catalogue.ELSEWHERE and source is not None:
        form = form or catalogue.ELSEWHERE[name].form
    if form is None and not overlaps:
        if source is not None and name not in catalogue.CATALOGUE:
            hint = nearest(name, catalogue.CATALOGUE)
            raise RequestError(f"{name!r} is not in the catalogue; {hint}; for your own set add --format auto")
        prepared.prepare(name, data_root, source, report=_say, force=force, policy=chosen, findings=findings)
        return
    if source is None:
        raise RequestError("--format and --overlaps are for a set of your own: add --from PATH")
    own.prepare(
        name,
        data_root,
        source,
        form=form or "auto",
        policy=chosen,
        findings=findings,
        overlaps=overlaps,
        report=_say,
        force=force,
    )


@app.command()
def policies() -> None:
    """The findings that a set can be refused for, and what --policy can do about each."""
    from benchmarks.datasets.findings import KINDS

    table = Table("finding", "meaning", "policy")
    for kind, (meaning, actions) in KINDS.items():
        table.add_row(kind, meaning, "\n".join(f"{kind}={action}: {what}" for action, what in actions.items()))
    console.print(table)


@app.command()
def export(
    name: Name,
    out: Annotated[Path, typer.Option("--out", help="new folder to write")],
    form: Annotated[str, typer.Option("--format", help="coco or yolo")],
    split: Annotated[str | None, typer.Option(help="a split list (default: the set's own)")] = None,
    fold: Annotated[
        int | None, typer.Option(help="write this fold's train, val and test parts; else all as one")
    ] = None,
    data_root: Root = None,
) -> None:
    """Write a prepared set for other tools, on our split."""
    from benchmarks.datasets import prepared
    from benchmarks.datasets.exporting import export as write
    from benchmarks.datasets.splits import load_split

    data = prepared.ensure(name, data_root)
    if split is not None and fold is None:
        raise RequestError(f"--split {split} needs --fold")
    part = None if fold is None else load_split(name, split or catalogue.get(name, data_root).split, fold, data_root)
    write(data, form, out, part)
    _say(f"{out}: {len(data.images)} images" + (f", fold {fold} of {part.name}" if part else ""))


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
    _say(
        f"{out}"
        + ("" if catalogue.get(name, data_root).redistributable else ": for your eyes, the images may not be passed on")
    )


@app.command()
def stats(
    name: Name,
    out: Annotated[Path | None, typer.Option("--out", help="draw the figure into this .png, .svg or .pdf")] = None,
    data_root: Root = None,
) -> None:
    """What is small: box sizes per class, absolute and relative, and which classes occur together."""
    from benchmarks.datasets import prepared, statistics

    if out is not None and out.suffix not in (".png", ".svg", ".pdf"):
        raise RequestError(f"--out {out}: name a .png, .svg or .pdf")
    data = prepared.ensure(name, data_root)
    frame = statistics.boxes(data)
    if frame.empty:
        raise DataError(f"{name}: no box in it, nothing to measure")
    counts = statistics.table(frame, data.classes)
    table = Table("class", *counts.columns)
    for label, row in counts.iterrows():
        shown = [f"{v:.1%}" if "below" in k or "share" in k else f"{v:,.0f}" for k, v in row.items()]
        table.add_row(str(label), *shown)
    console.print(table)
    _say(f"defect-free images: {sum(not data.boxes(i['file_name']) for i in data.images)} of {len(data.images)}")
    if out is not None:
        statistics.draw(data, frame, out)
        _say(f"{out}")


@app.command()
def splits(
    name: Name,
    out: Annotated[Path | None, typer.Option("--out", help="write the lists made here into this folder")] = None,
    data_root: Root = None,
) -> None:
    """Make a catalogued set's split lists anew, and compare them with those that are shipped."""
    from benchmarks.datasets import prepared
    from benchmarks.datasets import splits as lists

    if name not in catalogue.CATALOGUE:
        raise RequestError(f"{name!r} is not in the catalogue; {nearest(name, catalogue.CATALOGUE)}")
    data = prepared.ensure(name, data_root)
    for title, content in lists.make_all(data, report=_say).items():
        text = lists.dumps(content)
        shipped = lists.SHIPPED / f"{title}.json"
        same = shipped.is_file() and shipped.read_text(encoding="utf-8") == text
        state = "as shipped" if same else "DIFFERS from what is shipped" if shipped.is_file() else "not shipped"
        groups = content.get("near_duplicate_groups")
        near = f", {len(groups)} near-duplicate groups of {sum(map(len, groups))} images" if groups is not None else ""
        _say(f"{title}: {state}{near}")
        if "folds" in content:
            table = Table("fold", "images", *data.classes, "defect-free")
            for i, part in enumerate(content["folds"]):
                count = Counter(a["category_id"] for file_name in part for a in data.boxes(file_name))
                clean = sum(not data.boxes(file_name) for file_name in part)
                boxes = [str(count[k]) for k in range(1, len(data.classes) + 1)]
                table.add_row(str(i), str(len(part)), *boxes, str(clean))
            console.print(table)
        if out is not None:
            out.mkdir(parents=True, exist_ok=True)
            (out / f"{title}.json").write_text(text, encoding="utf-8", newline="\n")


def main() -> None:
    run_app(app)


if __name__ == "__main__":
    main()
