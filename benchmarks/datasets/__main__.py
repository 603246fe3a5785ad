"""`python -m benchmarks.datasets`: what data there is, preparing and checking it, split lists, export."""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from benchmarks.cli import console, run_app
from benchmarks.datasets import catalogue, grouping
from benchmarks.errors import DataError, RequestError, nearest

if TYPE_CHECKING:
    from benchmarks.datasets.prepared import PreparedDataset

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False, help=__doc__)

_OURS = "the very images and boxes that our split lists and records are made of"
Name = Annotated[str, typer.Argument(help="a name from `list`")]
Root = Annotated[
    Path | None, typer.Option("--data-root", help="where prepared sets lie (default: $CANET_BENCH_DATA or the cache)")
]


def _fold_table(data: PreparedDataset, folds: Sequence[Sequence[str]], group: Mapping[str, int]) -> None:
    from benchmarks.datasets.splits import shares

    table = Table("fold", "images", *data.classes, "defect-free")
    for i, (part, row) in enumerate(zip(folds, shares(data, folds, group), strict=True)):
        cells = [f"{s.boxes} / {s.images} / {s.groups}" for s in row.values()]
        table.add_row(str(i), str(len(part)), *cells, str(sum(not data.boxes(name) for name in part)))
    console.print(table)
    _say("of each class: boxes / images / groups of images that belong together, of which a fold has all")


def _say(line: str) -> None:
    console.print(line, markup=False, highlight=False, soft_wrap=True)


@app.command("list")
def list_sets(data_root: Root = None) -> None:
    """The catalogue, and what is prepared."""
    from benchmarks.datasets.prepared import is_prepared

    root = catalogue.data_root(data_root)
    own = catalogue.own_sets(root)
    table = Table("name", "images", "boxes", "classes", "px", "state", "title")

    def row(name: str, images: int, boxes: int | None, classes: int, sizes: str, state: str, title: str) -> None:
        counts = ("?" if n is None else f"{n:,}" for n in (images, boxes))
        table.add_row(name, *counts, str(classes or "?"), sizes, state, title)

    for spec in [*catalogue.CATALOGUE.values(), *own.values()]:
        state = "prepared" if is_prepared(spec.name, root) else "made when needed" if spec.embedded else "not prepared"
        row(spec.name, spec.images, spec.boxes, len(spec.classes), str(spec.native_size), state, spec.title)
    for unverified in catalogue.UNVERIFIED.values():
        if unverified.name not in own:
            counts = (unverified.images, unverified.boxes, len(unverified.classes))
            row(unverified.name, *counts, unverified.sizes, "unverified", unverified.title)
    console.print(table)
    _say("unverified: what its authors or others state; it could not be had here, its reader is tested on a likeness")
    _say(f"data root: {root}")


@app.command()
def show(name: Name, data_root: Root = None) -> None:
    """What a set is, what its licence forbids, how to get it."""
    from benchmarks.datasets.prepared import is_prepared, open_prepared
    from benchmarks.datasets.splits import groups_of, load_split
    from benchmarks.datasets.splits import titles as splits_of

    unverified = catalogue.UNVERIFIED.get(name)
    ready = unverified is None or name in catalogue.own_sets(data_root)
    spec = catalogue.get(name, data_root) if ready else None
    entry = unverified or spec
    assert entry is not None
    rows = {"title": entry.title, "classes": ", ".join(spec.classes if spec else entry.classes) or "not stated"}
    if spec is not None:
        rows["images"] = f"{spec.images:,} with {spec.boxes:,} boxes, longer side {spec.native_size} px"
        more = [title for title in splits_of(name, data_root) if title != spec.split]
        rows["split"] = f"{spec.split} ({spec.folds} folds)" + (f"; {', '.join(more)}" if more else "")
    if unverified is not None:
        boxes = f" with {unverified.boxes:,} boxes" if unverified.boxes is not None else ""
        sizes = "sizes not stated" if unverified.sizes == "?" else f"{unverified.sizes} px"
        rows["stated"] = f"{unverified.images:,} images{boxes}, {sizes}; unverified"
        rows["boxes by"] = unverified.rule
    forbidden = spec is not None and not spec.redistributable and name in catalogue.CATALOGUE
    rows["licence"] = entry.licence + ("; its images may not be passed on" if forbidden else "")
    rows |= {"homepage": entry.homepage, "cite": entry.citation, "get it": entry.how_to_get}
    if unverified is not None:
        rows["address"] = f"{unverified.url} ({unverified.digest})" if unverified.url else ""
    rows["layouts"] = unverified.layouts if unverified else spec.layouts if spec else ""
    if spec is not None and spec.known:
        rows["known"] = ", ".join(f"{kind}={action}" for kind, action in spec.known.items())
    rows["then"] = catalogue.command(name)
    if spec is not None and is_prepared(name, data_root):
        data = open_prepared(name, data_root)
        count = Counter(a["category_id"] for a in data.annotations)
        rows["prepared"] = f"{data.root} (manifest {data.manifest_digest[:12]})"
        rows["boxes"] = ", ".join(f"{label} {count[i]:,}" for i, label in enumerate(data.classes, start=1))
    for key, value in rows.items():
        if value:
            filled = textwrap.fill(
                value,
                10_000 if key == "then" else 108,  # a command is copied as one line
                initial_indent=f"{key:9} ",
                subsequent_indent=" " * 10,
                break_on_hyphens=False,
                break_long_words=False,
            )
            _say(filled)
    if spec is not None and is_prepared(name, data_root):
        folds = [load_split(name, spec.split, fold, data_root).test for fold in range(spec.folds)]
        _fold_table(data, folds, groups_of(name, spec.split, data_root))


@app.command()
def prepare(
    name: Name,
    source: Annotated[
        str | None, typer.Option("--from", help="an archive or unpacked folder, or an archive's http(s) address")
    ] = None,
    digest: Annotated[
        str, typer.Option("--digest", help="sha256:HEX or md5:HEX of the archive, checked before it is read")
    ] = "",
    format: Annotated[
        str | None, typer.Option("--format", help="for a set of your own: coco, voc, yolo, masks, or auto to find out")
    ] = None,
    policy: Annotated[
        list[str] | None,
        typer.Option(
            "--policy",
            metavar="KIND=ACTION",
            help="KIND=ACTION, what to do about a finding instead of refusing the set; see `policies`",
        ),
    ] = None,
    findings: Annotated[Path | None, typer.Option("--findings", help="write all findings to this JSON file")] = None,
    overlaps: Annotated[
        bool, typer.Option("--overlaps", help="for a set of your own: keep crops that show the same place in one fold")
    ] = False,
    groups: Annotated[str, typer.Option("--groups", help=grouping.HELP)] = grouping.DEFAULT,
    folds: Annotated[int, typer.Option("--folds", help="for a set of your own: how many folds")] = 5,
    data_root: Root = None,
    force: Annotated[bool, typer.Option("--force", help="make it again even if it is up to date")] = False,
    replace: Annotated[
        bool,
        typer.Option("--replace", help="make a set of your own anew, from something else than the one of its name"),
    ] = False,
    strict: Annotated[
        bool,
        typer.Option("--strict", help="refuse what would be changed or left out with a word, unless --policy says so"),
    ] = False,
) -> None:
    """Put a set under the data root: COCO annotations, images, manifest. Safe to interrupt and to repeat.

    A set of your own, in COCO, VOC or YOLO files, needs --from PATH --format auto and can then be used by its name.
    """
    from benchmarks.datasets import prepared
    from benchmarks.datasets.findings import parse_policy

    chosen = parse_policy(policy or [])
    if name not in catalogue.CATALOGUE and name not in catalogue.UNVERIFIED and format is None and not overlaps:
        hint = nearest(name, [*catalogue.CATALOGUE, *catalogue.UNVERIFIED])
        raise RequestError(f"{name!r} is not in the catalogue; {hint}; for your own set add --from PATH --format auto")
    if name in catalogue.CATALOGUE and (groups != grouping.DEFAULT or folds != 5):
        raise RequestError(f"--groups and --folds are for a set of your own; {name} has the lists that are shipped")
    if name in catalogue.CATALOGUE and format is None and not overlaps:
        prepared.prepare(
            name,
            data_root,
            source,
            digest=digest,
            report=_say,
            force=force,
            policy=chosen,
            findings=findings,
            strict=strict,
        )
        return
    from benchmarks.datasets import own

    own.prepare(
        name,
        data_root,
        source,
        digest=digest,
        format=format,
        policy=chosen,
        findings=findings,
        overlaps=overlaps,
        groups=groups,
        folds=folds,
        report=_say,
        force=force,
        replace=replace,
        strict=strict,
    )


@app.command()
def policies() -> None:
    """The findings that a set can be refused for, and what --policy can do about each."""
    from benchmarks.datasets.findings import DEFAULTS, KINDS

    table = Table("finding", "meaning of the file", "policy")
    for kind, (meaning, actions) in KINDS.items():
        lines = [
            f"{kind}={action}: {what}" + (" (without a policy)" if DEFAULTS.get(kind) == action else "")
            for action, what in actions.items()
        ]
        table.add_row(kind, meaning, "\n".join(lines))
    console.print(table)
    _say("what has no action of its own without a policy refuses the set; with --strict everything does")


@app.command()
def export(
    name: Name,
    out: Annotated[Path, typer.Option("--out", help="new folder to write")],
    format: Annotated[str, typer.Option("--format", help="coco or yolo")],
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
    write(data, format, out, part, report=_say)
    counts = {"all": data.images} if part is None else {"train": part.train, "val": part.val, "test": part.test}
    written = ", ".join(f"{len(names)} {key}" for key, names in counts.items() if names)
    _say(f"{out}: {written} images" + (f", fold {fold} of {part.name}" if part else ""))
    if part is not None and not part.val:
        _say(f"{part.name} has no validation part: choose nothing by what {out} calls so, it is the test part")


@app.command()
def verify(name: Name, data_root: Root = None) -> None:
    """Check the digest of every file of a prepared set."""
    from benchmarks.datasets import prepared

    data = prepared.verify(name, data_root)
    _say(f"{name}: {len(data.manifest['files'])} files as prepared, manifest {data.manifest_digest}")
    if known := catalogue.get(name, data_root).manifest:
        same = data.manifest_digest == known
        _say(_OURS if same else f"NOT {_OURS} ({known})")


@app.command()
def preview(
    name: Name,
    out: Annotated[Path | None, typer.Option("--out", help="PNG to write (default: beside the set)")] = None,
    images: Annotated[int, typer.Option(min=1, help="how many images")] = 24,
    data_root: Root = None,
) -> None:
    """Write a mosaic of images with their boxes."""
    from benchmarks.datasets import prepared
    from benchmarks.datasets.preview import write

    out = out or catalogue.data_root(data_root) / f"{name}-preview.png"
    if out.suffix.lower() != ".png":
        raise RequestError(f"--out {out}: the mosaic is a PNG; name it so")
    data = prepared.ensure(name, data_root)
    write(data, out, images, _parts(name, data_root))
    _say(
        f"{out}"
        + ("" if catalogue.get(name, data_root).redistributable else ": for your eyes, the images may not be passed on")
    )


def _parts(name: str, data_root: Path | None) -> dict[str, str]:
    """What the default split list makes of each image: its fold, or its part where there is one fold only."""
    from benchmarks.datasets.splits import load_split

    spec = catalogue.get(name, data_root)
    if spec.folds > 1:
        lists = [load_split(name, spec.split, fold, data_root) for fold in range(spec.folds)]
        return {file: f"fold {split.fold}" for split in lists for file in split.test}
    split = load_split(name, spec.split, 0, data_root)
    return {file: part for part in ("train", "val", "test") for file in getattr(split, part)}


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
        shown = ["-" if v != v else f"{v:.1%}" if "below" in k or "share" in k else f"{v:,.0f}" for k, v in row.items()]
        table.add_row(str(label), *shown)
    console.print(table)
    without = [i["file_name"] for i in data.images if not data.boxes(i["file_name"])]
    blank = sum(bool(data.ignored(file_name)) for file_name in without)
    hidden = f", {blank} of them with objects that are ignored" if blank else ""
    _say(f"defect-free images: {len(without)} of {len(data.images)}{hidden}")
    if out is not None:
        statistics.draw(data, frame, out)
        _say(f"{out}")


@app.command()
def splits(
    name: Name,
    out: Annotated[Path | None, typer.Option("--out", help="write the lists made here into this folder")] = None,
    data_root: Root = None,
) -> None:
    """Make a catalogued set's split lists anew, compared with those shipped; or show those of your own set."""
    from benchmarks.datasets import prepared
    from benchmarks.datasets import splits as lists

    data = prepared.ensure(name, data_root)
    if name not in catalogue.CATALOGUE:
        if out is not None:
            raise RequestError(f"--out {out}: the lists of {name} lie in {data.root / 'splits'}")
        for title in lists.titles(name, data_root):
            count = lists.count_folds(name, title, data_root)
            folds = [lists.load_split(name, title, fold, data_root) for fold in range(count)]
            default = ", the default" if title == catalogue.get(name, data_root).split else ""
            sizes = "; ".join(f"{len(s.train)} train, {len(s.val)} val, {len(s.test)} test" for s in folds)
            _say(f"{title}{default}: {count} folds: {sizes}" if count > 1 else f"{title}{default}: {sizes}")
        return
    for title, content in lists.make_all(data, report=_say).items():
        text = lists.dumps(content)
        shipped = lists.SHIPPED / f"{title}.json"
        same = shipped.is_file() and shipped.read_text(encoding="utf-8") == text
        state = "as shipped" if same else "DIFFERS from what is shipped" if shipped.is_file() else "not shipped"
        groups = content.get("near_duplicate_groups")
        near = f", {len(groups)} near-duplicate groups of {sum(map(len, groups))} images" if groups is not None else ""
        _say(f"{title}: {state}{near}")
        if "folds" in content:
            _fold_table(data, content["folds"], lists.numbered(content["folds"], lists.stated(content)))
        if out is not None:
            out.mkdir(parents=True, exist_ok=True)
            (out / f"{title}.json").write_text(text, encoding="utf-8", newline="\n")


def main() -> None:
    run_app(app)


if __name__ == "__main__":
    main()
