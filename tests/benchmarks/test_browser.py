"""The HTML page in headless Chromium, from disk: eight models, 64 test images, hostile class names.

`python -m pytest -n0 -m browser tests/benchmarks/test_browser.py`. `CHROMIUM` names a browser that is not on the path.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks.report import page
from benchmarks.report.escaping import plain
from benchmarks.store import scan, write_atomic
from tests.benchmarks import fabricated

pytestmark = pytest.mark.browser

WIDE, NARROW = {"width": 1280, "height": 900}, {"width": 390, "height": 844}


def chromium() -> str:
    """Where the browser is; the test is skipped where there is none."""
    names = (os.environ.get("CHROMIUM", ""), "chromium", "chromium-browser", "google-chrome")
    found = next((path for name in names if name and (path := shutil.which(name))), None)
    if found is None:
        pytest.skip("no Chromium here: install one, or name it in CHROMIUM")
    return found


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    api = pytest.importorskip("playwright.sync_api", reason="the page is driven by playwright: extra dev")
    pytest.importorskip("vl_convert", reason="the page needs the extra html")
    with api.sync_playwright() as p:
        # Users of containers are often root, under whom its sandbox does not start.
        made = p.chromium.launch(executable_path=chromium(), args=["--no-sandbox"])
        yield made
        made.close()


@pytest.fixture(scope="module")
def written(browser: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("fabricated")
    data = fabricated.data_set(root)
    list(fabricated.results(root / "results", data))
    page.write_page(root / "results", root / "page.html", data_root=root / "data", say=print)
    assert (root / "page.html").stat().st_size < 2e6
    return root / "page.html"


@pytest.fixture(scope="module")
def ordered(browser: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of three models that are trained to the end, five trainings each, and are therefore ranked."""
    root = tmp_path_factory.mktemp("ordered")
    data = fabricated.data_set(root, test_images=24)
    cells = [("fcos", "default"), ("fasterrcnn_fpn", "default"), ("canet", "default")]
    fabricated.converged(root / "results", data, cells, step=0.3)
    page.write_page(root / "results", root / "page.html", data_root=root / "data", say=print)
    return root / "page.html"


@pytest.fixture(scope="module")
def odd(browser: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of three models with what records seldom hold: see `_odd`."""
    root = tmp_path_factory.mktemp("odd")
    data = fabricated.data_set(root, test_images=24, classes=("missed", "no box", "pit"))
    list(fabricated.results(root / "results", data, fabricated.CELLS[:3]))
    content = page.page_content(list(scan(root / "results")), data_root=root / "data")
    content["records"][0] |= {"start": None}
    _odd(content["sections"][0])
    write_atomic(root / "page.html", page.render(content).encode())
    return root / "page.html"


def _odd(section: dict[str, Any]) -> None:
    """A row of another fold, one without a measurement, lengths of training, and a gallery of borders."""
    first, second, third = section["rows"]
    first |= {"folds": [0, 1], "runs": 2}
    third |= {"runs": 0, "never_found": {}, "pretrained": None, "folds": []}
    for pair in section["pairs"]:
        pair[3] = [-0.0001, -0.02, 0.0001, None, 1, 0, "images only"]
    points = [[9, 0.3, 1, 0], [18, 0.5, 5, 1], [36, 0.8, 3, 0], [72, None, 0, 2]]
    section["courses"] = [
        {"label": second["title"], "fold": 0, "once": 18, "points": points, "verdict": "still learning"}
    ]
    shown = section["gallery"]
    for model, chosen_on in zip(shown["models"], ("validation", "test", "nothing"), strict=True):
        model |= {"threshold": round(0.4237 * shown["steps"]), "chosen_on": chosen_on}
    false = [1, 1, 20, 20, round(0.4245 * shown["steps"]), 0, 0, -1]
    boxes = {"ignored.png": [5, 5, 20, 20, 0, 400, 1], "on.png": [5, 5, 16, 16, 0, 256, 0]}
    boxes["below.png"] = [5, 5, 16, 16, 0, 255.6, 0]
    boxes["mask.png"] = [5, 5, 20, 16, 0, 200, 0, 320]
    shown["images"] = [
        {"name": name, "size": [96, 96], "boxes": [box], "found": [[false] if name == "ignored.png" else []] * 3}
        for name, box in boxes.items()
    ]
    shown["suspects"] = {"unboxed": [], "missed_by_all": []}


@pytest.fixture
def show(browser: Any, written: Path) -> Iterator[Any]:
    """Open a page; at the end nobody may have complained, and nothing may have been fetched."""
    complaints: list[str] = []
    opened = []

    def open_page(viewport: dict[str, int] = WIDE, scheme: str = "light", path: Path = written) -> Any:
        made = browser.new_page(viewport=viewport, color_scheme=scheme, reduced_motion="reduce")
        opened.append(made)
        made.on("console", lambda m: complaints.append(m.text) if m.type in ("error", "warning") else None)
        made.on("pageerror", lambda e: complaints.append(str(e)))
        made.on("dialog", lambda d: complaints.append(d.message))
        made.on("request", lambda r: None if r.url.startswith(("file:", "data:")) else complaints.append(r.url))
        made.goto(path.as_uri())
        made.wait_for_selector("html[data-ready=yes]", timeout=60_000)
        return made

    yield open_page
    for made in opened:
        made.close()
    assert complaints == []


def _column(made: Any, n: int) -> list[str]:
    return made.locator(f"#table tbody tr > *:nth-child({n})").all_inner_texts()


def _draw_all(made: Any) -> None:
    for chart in made.locator(".chart").all():
        chart.scroll_into_view_if_needed()
        chart.locator(".plot[data-drawn], .none").first.wait_for(timeout=60_000)


def test_the_table_sorts_and_filters(show: Any) -> None:
    made = show()
    assert made.locator("#table tbody tr").count() == 8
    heading = made.locator("#table thead th", has_text="AP50")
    heading.locator("button").click()
    values = [float(text.split()[0]) for text in _column(made, 8)]
    assert values == sorted(values, reverse=True)
    assert len(set(values)) == 8
    assert heading.get_attribute("aria-sort") == "descending"
    heading.locator("button").click()
    assert [float(text.split()[0]) for text in _column(made, 8)] == values[::-1]
    made.fill("#filter", "canet")
    assert made.locator("#shown").inner_text() == "3 of 8 records"
    assert all("CANet" in text for text in _column(made, 1))
    made.fill("#filter", f"ap50>{(values[2] + values[3]) / 2}")
    assert made.locator("#shown").inner_text() == "3 of 8 records"
    best = next(text for text in _column(made, 8)).split()[0]
    shown = made.locator("#shown")
    for text, found in (
        (f"AP50={best}", "1 of 8"),
        ("AP50 > 0", "8 of 8"),
        ("AP small>0", "8 of 8"),
        ("px=96", "8 of 8"),
        (f"AP50!={best}", "7 of 8"),
        (f"AP50 ≥ {best}", "3 of 8"),
        ("seed≤0", "8 of 8"),
        ("fold≠0", "0 of 8"),
        ("fold=0.4", "0 of 8"),
        ("model!=canet", "5 of 8"),
        ("start=scratch", "8 of 8"),
    ):
        made.fill("#filter", text)
        assert shown.inner_text() == f"{found} records", text
    # No column, no number, no order of words, nothing to compare with, another sign.
    for text in ("AP51>60", "-fold=0", "AP50>0,6", "model<fcos", "AP50>", "fold==0"):
        made.fill("#filter", text)
        assert f"not understood, and left out: {text.lower()}" in shown.inner_text().lower()
    made.fill("#filter", "no such model")
    assert made.locator("#table tbody tr").count() == 0


def test_what_is_not_known_is_not_unequal(show: Any, odd: Path) -> None:
    """Of one of these what it started from is not known."""
    made = show(path=odd)
    for text, found in (("start!=scratch", 0), ("start=scratch", 2), ("start!=pretrained", 2)):
        made.fill("#filter", text)
        assert made.locator("#shown").inner_text() == f"{found} of 3 records", text


def test_every_plot_is_drawn_and_hovers(show: Any) -> None:
    made = show()
    _draw_all(made)
    assert made.locator(".plot svg.marks").count() == 11, "the length of training, of which there is one, is left out"
    assert made.locator("#chart-budget").count() == 0
    point = made.locator("#chart-cost .mark-symbol path").last
    point.scroll_into_view_if_needed()
    point.hover(force=True)
    tip = made.locator("#vg-tooltip-element.visible")
    tip.wait_for()
    assert "AP50" in tip.inner_text()
    made.select_option("#chart-pr select", label=fabricated.HOSTILE[0])
    made.wait_for_function("document.querySelector('#chart-pr .plot').dataset.drawn > 1")
    before = made.locator("#chart-froc .mark-line path").count()
    made.locator("#chips button").first.click()
    made.wait_for_function(f"document.querySelectorAll('#chart-froc .mark-line path').length === {before - 1}")


def test_any_two_rows_are_compared(show: Any) -> None:
    made = show()
    made.select_option("#a", label="CANet")
    made.select_option("#b", label="RetinaNet")
    line = made.locator("#compared tbody tr", has_text="AP50").first.inner_text()
    made.select_option("#a", label="RetinaNet")
    made.select_option("#b", label="CANet")
    turned = made.locator("#compared tbody tr", has_text="AP50").first.inner_text()
    (a, low, high), (b, low2, high2) = (
        [float(v.replace("−", "-").strip("(+±)")) for v in text.split("\t")[3].replace(" to ", " ").split()]
        for text in (line, turned)
    )
    assert (a, low, high) == (-b, -high2, -low2)
    assert low < a < high
    assert "nothing is ranked" in made.locator("#compared .note").inner_text()
    assert "images only" in line
    for metric in ("AP small", "AP75", "recall at 1 false alarm an image", "escape (less is better)"):
        cells = made.locator("#compared tbody tr", has_text=metric).first.inner_text().split("\t")
        assert re.fullmatch(r"[+−±][\d.]+ \([+−±][\d.]+ to [+−±][\d.]+\)", cells[3]), metric
        assert cells[4:] == ["1", "–", "images only"], "one pair, and no p from it"
    made.select_option("#b", label="RetinaNet")
    assert "Choose two different rows" in made.locator("#compared .note").inner_text()


def test_curves_of_one_size_are_shown_and_what_cannot_be_told_is_said(show: Any) -> None:
    made = show()
    _draw_all(made)
    boxes = made.locator("#chart-pr select")
    assert "large boxes" not in boxes.inner_text()
    assert "No test image of these trainings holds a box that is large." in made.locator("#chart-pr .help").inner_text()
    for chart, select in (("pr", boxes), ("froc", made.locator("#chart-froc select").last)):
        lines = made.locator(f"#chart-{chart} .mark-line path")
        before = [line.get_attribute("d") for line in lines.all()]
        select.select_option(label="small boxes (to 32 x 32 px)")
        made.wait_for_function(f"document.querySelector('#chart-{chart} .plot').dataset.drawn > 1")
        after = [line.get_attribute("d") for line in lines.all()]
        assert len(after) == len(before) == 8
        assert after != before
        assert "COCO's bins, ends included" in made.locator(f"#chart-{chart} .help").inner_text()


def test_ranked_models_are_shown_best_first_with_p_and_no_excuse(show: Any, ordered: Path) -> None:
    made = show(path=ordered)
    card = made.locator("#verdict .card")
    assert card.locator("li").first.inner_text().startswith("Best on AP50: FCOS")
    assert card.locator("tbody tr").first.locator("strong").count() == 2, "best in AP50 and in AP small"
    values = [float(text.split()[0]) for text in card.locator("tbody td:nth-child(2)").all_inner_texts()]
    assert values == sorted(values, reverse=True)
    made.select_option("#a", label="FCOS")
    made.select_option("#b", label="CANet")
    assert made.locator("#compared .note").count() == 0
    for metric in ("AP50", "AP75", "recall at 1 false alarm an image"):
        cells = made.locator("#compared tbody tr", has_text=metric).first.inner_text().split("\t")
        assert cells[4] == "5"
        assert re.fullmatch(r"< 0.001|0\.\d{3}", cells[5]), metric
        assert cells[6] == "trainings and images"
    made.select_option("#chart-forest select >> nth=1", label="AP75")
    _draw_all(made)
    assert "Hollow" not in made.locator("#chart-forest .help").inner_text()


@pytest.mark.parametrize("viewport", [WIDE, NARROW], ids=["1280", "390"])
def test_columns_of_a_verdict_stand_under_their_heads_and_fit(
    show: Any, ordered: Path, viewport: dict[str, int]
) -> None:
    made = show(viewport, path=ordered)
    table = made.locator("#verdict .scroll")
    assert table.evaluate("e => e.scrollWidth <= e.clientWidth")
    right = "e => e.getBoundingClientRect().right - parseFloat(getComputedStyle(e).paddingRight)"
    heads, cells = (
        [round(one.evaluate(right)) for one in table.locator(f"{part} tr").first.locator("> *").all()[1:]]
        for part in ("thead", "tbody")
    )
    assert heads == cells


def test_the_gallery_is_walked_by_keyboard_and_its_slider_moves(show: Any) -> None:
    made = show()
    entries = made.locator("#images button")
    assert entries.count() >= 60
    assert made.locator("#panels .panel").count() == 9, "ground truth and eight models"
    entries.first.focus()
    seen = [made.locator("#image-title").inner_text()]
    for key in ("ArrowRight", "ArrowDown", "ArrowLeft", "End", "Home"):
        made.keyboard.press(key)
        seen.append(made.locator("#image-title").inner_text())
    places = [int(text.rpartition(", ")[2].split()[0]) for text in seen]
    assert places == [1, 2, 3, 2, entries.count(), 1]
    assert made.evaluate("document.activeElement.getAttribute('aria-current')") == "true"

    def shown() -> tuple[int, int]:
        return tuple(made.locator(f"#panels .mark-{kind}").count() for kind in ("true", "missed"))

    true, missed = shown()
    assert made.locator("#marks svg").count() == 8, "each operating point is marked"
    slider = made.locator("#score")
    slider.focus()
    slider.press("End")
    assert shown() == (0, true + missed), "every box is missed at score 1"
    assert made.locator("#own").get_attribute("aria-pressed") == "false"
    slider.press("Home")
    assert shown()[0] >= true
    made.locator("#own").click()
    assert shown() == (true, missed)


def test_the_gallery_is_ordered_and_filtered(show: Any) -> None:
    made = show()
    made.select_option("#order", "alarms")
    first = made.locator("#images button").first.inner_text()
    assert "good part" in first
    assert "false alarms" in first
    everything = made.locator("#images button").count()
    made.select_option("#class", index=1)
    made.select_option("#size", label="below 16 x 16 px")
    assert 0 < made.locator("#images button").count() < everything
    made.locator("#missed-by-all button").first.click()
    assert made.locator("#images button").count() == everything
    # What all miss is missed under each of the eight.
    assert made.locator("#panels .mark-missed").count() >= 8
    made.locator("#panels .mark-truth").first.hover(force=True)
    made.locator("#tip").wait_for()
    assert made.locator("#tip").inner_text() in {plain(name) for name in fabricated.HOSTILE}


def test_a_threshold_is_told_by_what_it_was_chosen_on_and_applied_as_it_is_shown(show: Any, odd: Path) -> None:
    made = show(path=odd)
    made.locator("#images button", has_text="ignored.png").click()
    lines = made.locator("#panels .panel p").all_inner_texts()[1:]
    said = ("its operating point", "best F1 on these test images", "nothing chosen")
    assert [line.partition("from ")[2] for line in lines] == [f"0.42, {what}" for what in said]
    assert made.locator("#panels .mark-false").count() == 3
    made.locator("#own").click()
    assert made.locator("#score-shown").inner_text() == "0.425"
    assert made.locator("#panels .mark-false").count() == 0, "their score is 0.4245"


def test_an_image_of_ignored_boxes_is_no_good_part_and_a_border_is_the_evaluators(show: Any, odd: Path) -> None:
    made = show(path=odd)
    ignored = made.locator("#images button", has_text="ignored.png").inner_text()
    assert "ignored boxes alone" in ignored
    assert "good part" not in ignored
    assert "false alarms" not in ignored
    made.select_option("#size", label="below 16 x 16 px")
    names = [text.split("\n")[0] for text in made.locator("#images button").all_inner_texts()]
    assert names == ["below.png"], "a box of 16 x 16 is not below it, nor is one that holds a smaller mask"


def test_two_rows_of_different_folds_are_said_to_be_and_what_is_not_known_has_a_dash(show: Any, odd: Path) -> None:
    made = show(path=odd)
    assert "Means over different folds" in made.locator("#compared").inner_text()
    assert made.locator("#compared tbody tr").first.inner_text().split("\t")[3] in (
        "+0.0 (−2.0 to +0.0)",
        "+0.0 (+0.0 to +2.0)",
    )
    made.select_option("#b", index=2)
    for fact in ("classes never found", "start"):
        assert made.locator("#compared tbody tr", has_text=fact).inner_text().split("\t")[2] == "–"
    assert "Means over different folds" not in made.locator("#compared").inner_text()
    _draw_all(made)
    for chart in ("cost", "size", "classes"):
        assert "of folds 0, 1; " in made.locator(f"#chart-{chart} .help").inner_text()
    assert "different folds" not in made.locator("#chart-forest .help").inner_text()
    made.locator("#chart-pr select").select_option(label="small boxes (to 32 x 32 px)")
    made.wait_for_function("document.querySelector('#chart-pr .plot').dataset.drawn > 1")
    said = made.locator("#chart-pr .help").inner_text()
    assert "1 of 2 trainings, fold 0 of 0, 1." in said
    assert "No test image of these trainings holds a box that is large." in said


def test_classes_may_be_named_as_the_confusion_names_its_ends(show: Any, odd: Path) -> None:
    made = show(path=odd)
    _draw_all(made)
    drawn = made.locator("#chart-confusion .plot svg").text_content()
    assert "(missed)" in drawn
    assert "(no box)" in drawn


def test_a_verdict_on_lengths_stands_at_its_schedule_alone(show: Any, odd: Path) -> None:
    made = show(path=odd)
    _draw_all(made)
    said = []
    for point in made.locator("#chart-budget .mark-symbol path").all():
        point.scroll_into_view_if_needed()
        point.hover(force=True)
        made.locator("#vg-tooltip-element.visible").wait_for()
        said.append(made.locator("#vg-tooltip-element").inner_text())
    course = [text for text in said if "epochs, " in text]
    assert len(course) == 3
    assert ["still learning" in text for text in course] == [False, True, False]
    assert "50.0 after 18 epochs, 5 trainings, 1 more diverged; 18 to 36 epochs: still learning" in course[1]
    assert "All diverged: " in made.locator("#chart-budget .help").inner_text()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("viewport", [WIDE, NARROW], ids=["1280", "390"])
def test_it_is_accessible_and_nothing_is_cut(show: Any, viewport: dict[str, int], scheme: str) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-core: extra dev").Axe()
    made = show(viewport, scheme)
    _draw_all(made)
    assert made.evaluate("document.documentElement.scrollWidth") <= viewport["width"]
    found = axe.run(made).response["violations"]
    serious = [(v["id"], v["nodes"][0]["html"][:200]) for v in found if v["impact"] in ("serious", "critical")]
    assert serious == []
