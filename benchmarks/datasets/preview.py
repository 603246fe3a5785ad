"""A mosaic of a set's images with their boxes."""

from __future__ import annotations

import math
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from benchmarks.datasets.images import decode
from benchmarks.datasets.prepared import PreparedDataset

GAP = 6  # pixels between images: a frame at the edge of one is not hidden by the next
COLOURS = ("#e6550d", "#3182bd", "#31a354", "#e7298a", "#8856a7", "#dcb000", "#00a5a5", "#a63603", "#636363", "#ff9896")


def mosaic(data: PreparedDataset, count: int = 24, tile: int = 240) -> Image.Image:
    """`count` images spread evenly over the set, each fitted into `tile` pixels, and a legend below.

    Boxes are drawn around the defect, not on it.
    """
    total = len(data.images)
    chosen = [data.images[i * total // min(count, total)] for i in range(min(count, total))]
    columns = max(1, round(math.sqrt(len(chosen) * 1.5)))
    rows = math.ceil(len(chosen) / columns)
    font = ImageFont.load_default(size=15)
    step = tile + GAP
    legend, lines = _legend(data.classes, font, columns * step)
    out = Image.new("RGB", (columns * step, rows * step + 28 * lines), "white")
    draw = ImageDraw.Draw(out)
    for k, entry in enumerate(chosen):
        left, top = k % columns * step + GAP // 2, k // columns * step + GAP // 2
        picture = Image.fromarray(decode(data.path(entry["file_name"]).read_bytes(), entry["file_name"]))
        scale = tile / max(picture.size)
        size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
        out.paste(picture.resize(size, Image.Resampling.BICUBIC), (left, top))
        for a in data.boxes(entry["file_name"]):
            x, y, w, h = (v * scale for v in a["bbox"])
            corners = (left + x - 2, top + y - 2, left + x + w + 1, top + y + h + 1)
            draw.rectangle(corners, outline=COLOURS[(a["category_id"] - 1) % len(COLOURS)], width=2)
    for i, (x, line) in enumerate(legend):
        y = rows * step + 28 * line + 5
        draw.rectangle((x, y + 3, x + 13, y + 16), fill=COLOURS[i % len(COLOURS)])
        draw.text((x + 20, y), data.classes[i], fill="black", font=font)
    return out


def _legend(
    classes: tuple[str, ...], font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int
) -> tuple[list[tuple[float, int]], int]:
    """Left edge and line of each class's entry, and the number of lines."""
    places: list[tuple[float, int]] = []
    x, line = 8.0, 0
    for label in classes:
        wide = 20 + font.getlength(label) + 24
        if x + wide > width and x > 8:
            x, line = 8.0, line + 1
        places.append((x, line))
        x += wide
    return places, line + 1


def write(data: PreparedDataset, path: Path, count: int = 24) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    mosaic(data, count).save(path)
