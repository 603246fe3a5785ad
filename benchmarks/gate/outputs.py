"""What the gate found, for people and machines: Markdown of a pull request, JSON, JUnit XML, GitHub's annotations."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

from benchmarks.gate.checks import Check, Verdict
from benchmarks.gate.judge import verdicts

MARK: dict[Verdict, str] = {"fail": "❌", "inconclusive": "❔", "pass": "✅", "new": "🆕", "note": "ℹ️"}
_ORDER: tuple[Verdict, ...] = ("fail", "inconclusive", "new", "note", "pass")


def word(verdict: Verdict) -> str:
    """As it is printed: PASS, FAIL, INCONCLUSIVE, NEW, or a note."""
    return verdict if verdict == "note" else verdict.upper()


def overall(checks: Sequence[Check]) -> Verdict:
    """Of all of them: a failure first, then what could not be told."""
    count = verdicts(checks)
    return "fail" if count["fail"] else "inconclusive" if count["inconclusive"] else "pass"


def sentence(checks: Sequence[Check], cells: int) -> str:
    """How many checks have which verdict, and what the trainings would have shown."""
    count = verdicts(checks)
    text = (
        f"{cells} cells: {count['pass']} passed, {count['fail']} failed, {count['inconclusive']} inconclusive, "
        f"{count['new']} new, {count['note']} notes"
    )
    return f"{text}; {seen}" if (seen := power(checks)) else text


def power(checks: Sequence[Check]) -> str:
    """The drop of accuracy that would be told in 80% of tries; empty where no runs can tell."""
    known = [check for check in checks if check.caught is not None]
    if not known:
        return ""
    each: dict[str, float] = {}
    for check in known:
        assert check.caught is not None
        metric = check.what.partition(" (")[0]
        each[metric] = max(each.get(metric, 0.0), check.caught)
    points = ", ".join(f"{metric} {100 * drop:.1f}" for metric, drop in each.items())
    return f"drops caught in 80% of tries, in points: {points}"


def markdown(checks: Sequence[Check], base: str, head: str, cells: int) -> str:
    """A comment: the verdict, what failed, could not be told or is new, and all the rest folded away."""
    lines = [f"## {MARK[overall(checks)]} Regression gate: {word(overall(checks))}", ""]
    lines += [f"`{base}` against `{head}`. {sentence(checks, cells)}.", ""]
    shown = [c for v in _ORDER[:3] for c in checks if c.verdict == v]
    notes = [c for c in checks if c.verdict == "note"]
    passed = [c for c in checks if c.verdict == "pass"]
    lines += _table(shown) if shown else ["Nothing got worse." if passed else "Nothing was compared."]
    for title, some in ((f"{len(notes)} notes", notes), (f"{len(passed)} passed", passed)):
        if some:
            lines += ["", f"<details><summary>{title}</summary>", "", *_table(some), "", "</details>"]
    return "\n".join(lines) + "\n"


def _table(checks: Sequence[Check]) -> list[str]:
    rows = [f"| {MARK[c.verdict]} {word(c.verdict)} | {_cells(c.cell, c.what, c.base, c.head)} |" for c in checks]
    return ["| | cell | what | base | head |", "| --- | --- | --- | --- | --- |", *rows]


_UNSAFE = str.maketrans({"|": "\\|", "<": "&lt;", ">": "&gt;", "\n": " ", "\r": " ", "`": "'", "@": "@\u200b"})
"""Names are data: they open no table cell, no tag and call nobody."""


def _cells(*texts: str) -> str:
    return " | ".join(text.translate(_UNSAFE) for text in texts)


def as_json(checks: Sequence[Check], base: str, head: str, cells: int) -> str:
    """All checks as they are, with the verdict, in a stable order."""
    content: dict[str, Any] = {
        "schema": 1,
        "base": base,
        "head": head,
        "verdict": overall(checks),
        "cells": cells,
        "counts": verdicts(checks),
        "checks": [asdict(check) for check in checks],
    }
    return json.dumps(content, indent=1, ensure_ascii=False) + "\n"


def junit(checks: Sequence[Check]) -> bytes:
    """JUnit XML: a suite for each cell, a failed test for what failed, a skipped one for what could not be told."""
    root = ET.Element("testsuites", name="benchmarks.compare")
    by_cell: dict[str, list[Check]] = {}
    for check in checks:
        if check.verdict != "note":
            by_cell.setdefault(check.cell, []).append(check)
    whole = [0, 0, 0]
    for cell, own in by_cell.items():
        count = verdicts(own)
        numbers = len(own), count["fail"], count["inconclusive"]
        whole = [a + b for a, b in zip(whole, numbers, strict=True)]
        suite = ET.SubElement(root, "testsuite", {"name": _xml(cell), **_counts(*numbers)})
        for check in own:
            case = ET.SubElement(suite, "testcase", classname=_xml(cell), name=_xml(check.what))
            said = _xml(f"{check.base} -> {check.head}")
            if check.verdict == "fail":
                ET.SubElement(case, "failure", message=said)
            elif check.verdict == "inconclusive":
                ET.SubElement(case, "skipped", message=f"inconclusive: {said}")
            else:
                ET.SubElement(case, "system-out").text = said
    root.attrib |= _counts(*whole)
    ET.indent(root, " ")
    return ET.tostring(root, encoding="utf-8", xml_declaration=True) + b"\n"


def _counts(tests: int, failures: int, skipped: int) -> dict[str, str]:
    return {"tests": str(tests), "failures": str(failures), "errors": "0", "skipped": str(skipped)}


def _xml(text: str) -> str:
    """Without characters that no XML may hold."""
    return "".join(c for c in text if c in "\t\n" or (c >= " " and not "\ud800" <= c <= "\udfff" and c < "\ufffe"))


def workflow_commands(checks: Sequence[Check]) -> list[str]:
    """Workflow commands that GitHub shows on a pull request: an error for what failed, a warning for the rest."""
    kind = {"fail": "error", "inconclusive": "warning"}
    out = []
    for c in checks:
        if c.verdict in kind:
            title, said = f"{word(c.verdict)} {c.cell}", f"{c.what}: {c.base} -> {c.head}"
            out.append(f"::{kind[c.verdict]} title={_property(title)}::{_message(said)}")
    return out


def _message(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _message(text).replace(":", "%3A").replace(",", "%2C")


def summarize_for_github(content: str) -> None:
    """Add Markdown to the job's summary, where this runs in a job of GitHub's."""
    if path := os.environ.get("GITHUB_STEP_SUMMARY"):
        with Path(path).open("a", encoding="utf-8") as f:
            f.write(content)
