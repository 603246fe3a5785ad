"""What suites measured of their models on a device before anything was trained, as a part of `summary.md`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from benchmarks.cost.clock import PHASES, paired_ratio
from benchmarks.cost.latency_files import Latencies, files, read
from benchmarks.devices import device_class
from benchmarks.errors import DataError
from benchmarks.report.escaping import markdown as md

_END_TO_END = PHASES[-1]
_LEAST_ROUNDS = 6  # of fewer there is no 95% interval
_ATTEMPTS = ("latency", "batch_latency")


def markdown(folder: Path) -> list[str]:
    """Lines for the files below `folder`/_latency, a section each; none where there are none."""
    lines = []
    for path in files(folder):
        try:
            lines += _section(read(path))
        except (DataError, KeyError, TypeError, ValueError) as e:
            why = str(e) if isinstance(e, DataError) else f"{path} is not as the profile command writes it"
            lines += [f"## Latency, {md(path.stem)}", "", f"**Left out: {md(why)}.**", ""]
    return lines


def _section(measured: Latencies) -> list[str]:
    content, made = measured.content, measured.provenance
    entries: Mapping[str, Any] = content["models"]
    reference = _reference(content)
    on_gpu = device_class(made) is not None
    device = made.device_name or (made.cpu if not on_gpu else made.device)
    random = content.get("weights") == "random"
    facts = (
        f"{device}; scale {content.get('scale')}, {content.get('image_size')} px, {content.get('images')} images of "
        f"{content.get('dataset')}; {'random weights' if random else 'trained weights'}; "
        f"torch {made.packages.get('torch', 'unknown')}; {made.ended[:10]}, commit {(made.commit or 'unknown')[:8]}."
    )
    columns = [*(["median (ms)", "p90 (ms)"] if on_gpu else []), f"ratio to {_label(entries, reference)}", "rounds"]
    lines = [f"## Latency, {md(measured.path.stem)}", "", md(facts), ""]
    lines += ["| " + " | ".join(["model", "form", "batch", *map(md, columns)]) + " |"]
    lines += ["| --- | --- |" + " ---: |" * (1 + len(columns))]
    for size, name, latency in _timed(entries):
        entry, base = entries[name], _in_the_same_form(entries, name, reference, size)
        times = [f"{latency[quantile][_END_TO_END]:.2f}" for quantile in ("p50", "p90")] if on_gpu else []
        cells = [md(_label(entries, name)), _form(entry), str(size), *times, _ratio(latency, base), _rounds(latency)]
        lines.append("| " + " | ".join(cells) + " |")
    lines += ["", " ".join([*_what_it_is(random, on_gpu), *_what_was_cut(measured)]), ""]
    return lines


def _timed(entries: Mapping[str, Any]) -> Iterator[tuple[int, str, Mapping[str, Any]]]:
    """Batch size, entry and latency of all that was timed, by form and batch size."""
    found = [
        (size, name, latency)
        for name, entry in entries.items()
        for size, latency in _by_batch(entry).items()
        if latency is not None
    ]
    order = list(dict.fromkeys(_form(entry) for entry in entries.values()))
    yield from sorted(found, key=lambda one: (order.index(_form(entries[one[1]])), one[0]))


def _by_batch(entry: Mapping[str, Any]) -> dict[int, Mapping[str, Any] | None]:
    return {1: entry.get("latency"), **{int(size): one for size, one in (entry.get("batch_latency") or {}).items()}}


def _reference(content: Mapping[str, Any]) -> str:
    """The entry that ratios are to; older files say it in each latency alone."""
    said = (latency["reference"] for _, _, latency in _timed(content["models"]))
    return str(content.get("reference") or next(said, ""))


def _form(entry: Mapping[str, Any]) -> str:
    return f"{entry['engine']} {entry['precision']}"


def _model(entries: Mapping[str, Any], name: str) -> str:
    """The model of an entry; older files have it in the entry's name alone."""
    entry = entries[name]
    form = " ".join(part for part in (entry["engine"], entry["precision"]) if part not in ("torch", "fp32"))
    return str(entry.get("name") or name.removesuffix(f" {form}"))


def _label(entries: Mapping[str, Any], name: str) -> str:
    return str(entries[name]["label"]) if name in entries else name


def _in_the_same_form(entries: Mapping[str, Any], name: str, reference: str, size: int) -> Mapping[str, Any] | None:
    """The reference's latency, in the form and session of an entry; None where there is none, or it is the entry."""
    if reference not in entries or _model(entries, name) == _model(entries, reference):
        return None
    of, entry = _model(entries, reference), entries[name]
    for other, base in entries.items():
        if (_model(entries, other), _form(base), base["session"]) == (of, _form(entry), entry["session"]):
            return _by_batch(base).get(size)
    return None


def _ratio(latency: Mapping[str, Any], base: Mapping[str, Any] | None) -> str:
    """Median and interval of the ratios paired by round; a dash where rounds are missing or too few."""
    if base is None:
        return "–"
    times, others = (one["samples_ms"][_END_TO_END] for one in (latency, base))
    if len(times) != len(others) or len(times) < _LEAST_ROUNDS:
        return "–"
    ratio, (low, high) = paired_ratio(times, others)
    return f"{ratio:.2f} ({low:.2f}–{high:.2f})"


def _rounds(latency: Mapping[str, Any]) -> str:
    return str(len(latency["samples_ms"][_END_TO_END]))


def _what_it_is(random: bool, on_gpu: bool) -> list[str]:
    out = [
        "End to end, from an image in host memory to detections there. Ratios, with 95% intervals, are medians of "
        "those paired by round, to the reference in the same form at the same batch size; there are none from fewer "
        f"than {_LEAST_ROUNDS} rounds, nor in a form in which the reference was not timed."
    ]
    if random:
        out.append("With random weights two-stage models have other numbers of proposals than trained ones.")
    if not on_gpu:
        out.append("No absolute time is quoted for a CPU.")
    return out


def _what_was_cut(measured: Latencies) -> list[str]:
    """In sentences: what was cut, on what busy machine, what was not measured and why, and whether more is to come."""
    content, entries = measured.content, measured.content["models"]
    cut, busy = list[str](), False
    for number, session in enumerate(content["sessions"]):
        forms = ", ".join(dict.fromkeys(_form(e) for e in entries.values() if e["session"] == number))
        for one in [session, *((session or {}).get("batch_latency") or {}).values()]:
            if one is None:
                continue
            busy = busy or bool((one.get("machine") or {}).get("busy"))
            if one.get("cut"):
                what = f"{md(forms)} at batch {one['batch_size']}, after {one['rounds']} rounds"
                cut.append(f"**Cut by its time limit: {what}.**")
    out = list(dict.fromkeys(cut))  # a session without batch 1 is told of by another size's
    if busy:
        out.append("**Others used the machine: ratios hold, absolute times do not.**")
    reasons: dict[str, list[str]] = {}
    for name, why in content.get("not_measured", {}).items():
        reasons.setdefault(why, []).append(name)
    for name, entry in entries.items():
        for field, why in (entry.get("missing") or {}).items():
            if field.partition(".")[0] in _ATTEMPTS:
                size = field.partition(".")[2] or "1"
                reasons.setdefault(why, []).append(f"{name} at batch {size}")
    out += [f"Not measured: {md(', '.join(of))}: {md(why)}." for why, of in reasons.items()]
    if not measured.complete:
        out.append("**Not complete: the command that measured it goes on with it.**")
    return out
