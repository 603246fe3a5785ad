"""`python -m tests.picture [--data-root D]`: draw docs/page.png, the README's picture of the page of our records."""

from __future__ import annotations

import argparse
import io
import tempfile
from pathlib import Path

from PIL import Image
from playwright.sync_api import sync_playwright

from benchmarks.report import page
from tests.benchmarks.test_browser import chromium

WIDTH, HEIGHT = 1280, 1000
PARTS = (("#section", 674), ("#gallery", 560))
"""From where, and how many pixels below it."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-root", type=Path, default=None)
    parser.add_argument("--section", default="synthetic_small, 128 px")  # its images are ours to pass on
    options = parser.parse_args()
    root = Path(__file__).parents[1]
    pictures = []
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as p:
        out = Path(folder) / "page.html"
        page.write_page(root / "results", out, data_root=options.data_root, with_images=True, say=print)
        browser = p.chromium.launch(executable_path=chromium(), args=["--no-sandbox"])
        made = browser.new_page(viewport={"width": WIDTH, "height": HEIGHT}, reduced_motion="reduce")
        made.goto(out.as_uri())
        made.wait_for_selector("html[data-ready=yes]")
        made.select_option("#pick", label=options.section)
        made.select_option("#order", "apart")
        for chart in made.locator(".chart").all():
            chart.scroll_into_view_if_needed()
            chart.locator(".plot[data-drawn], .none").first.wait_for()
        for selector, height in PARTS:
            top = made.evaluate(f"document.querySelector('{selector}').getBoundingClientRect().top + scrollY")
            clip = {"x": 0, "y": top - 16, "width": WIDTH, "height": height}
            made.add_style_tag(content="header { position: static !important; }")
            pictures.append(Image.open(io.BytesIO(made.screenshot(full_page=True, clip=clip))).convert("RGB"))
        browser.close()
    whole = Image.new("RGB", (WIDTH, sum(picture.height for picture in pictures)))
    top = 0
    for picture in pictures:
        whole.paste(picture, (0, top))
        top += picture.height
    target = root / "docs" / "page.png"
    whole.quantize(256, method=Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE).save(target, optimize=True)
    print(f"{target}: {target.stat().st_size / 1e3:.0f} kB")


if __name__ == "__main__":
    main()
