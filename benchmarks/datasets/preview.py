"""A mosaic of a set's images with their boxes, names and parts."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from benchmarks.datasets.images import decode
from benchmarks.datasets.prepared import PreparedDataset

GAP = 6  # pixels between images: a frame at the edge of one is not hidden by the next
CAPTION = 18
COLOURS = ("#e6550d", "#3182bd", "#31a354", "#e7298a", "#8856a7", "#dcb000", "#00a5a5", "#a63603", "#636363", "#ff9896")
IGNORED = "#bbbbbb"


def mosaic(
    data: PreparedDataset, count: int = 24, tile: int = 240, parts: Mapping[str, str] | None = None
) -> Image.Image:
    """`count` images spread evenly over the set, each fitted into `tile` pixels, with its name; a legend below.

    Boxes are drawn around the defect, not on it; ignored ones (crowds, difficult objects) in grey.

    Args:
        parts: what stands beside the name of an image: its fold, or its part.
    """
    total = len(data.images)
    chosen = [data.images[i * total // min(count, total)] for i in range(min(count, total))]
    columns = max(1, round(math.sqrt(len(chosen) * 1.5)))
    rows = math.ceil(len(chosen) / columns)
    step, high = tile + GAP, tile + GAP + CAPTION
    entries = list(data.classes)
    if any(data.ignored(image["file_name"]) for image in chosen):
        entries.append("ignored")
    legend, lines = _legend(entries, columns * step)
    out = Image.new("RGB", (columns * step, rows * high + 28 * lines), "white")
    draw = ImageDraw.Draw(out)
    for k, entry in enumerate(chosen):
        name = entry["file_name"]
        left, top = k % columns * step + GAP // 2, k // columns * high + GAP // 2
        picture = Image.fromarray(decode(data.path(name).read_bytes(), name))
        scale = tile / max(picture.size)
        size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
        out.paste(picture.resize(size, Image.Resampling.BICUBIC), (left, top))
        drawn = [(a, COLOURS[(a["category_id"] - 1) % len(COLOURS)]) for a in data.boxes(name)]
        for a, colour in [*drawn, *((a, IGNORED) for a in data.ignored(name))]:
            x, y, w, h = (v * scale for v in a["bbox"])
            corners = (left + x - 2, top + y - 2, left + x + w + 1, top + y + h + 1)
            draw.rectangle(corners, outline=colour, width=2)
        part = f"  {parts[name]}" if parts and name in parts else ""
        draw.text((left, top + tile + 1), _fitted(name, part, tile), fill="#444444", font=_font(11))
    for i, (x, line) in enumerate(legend):
        y = rows * high + 28 * line + 5
        draw.rectangle(
            (x, y + 3, x + 13, y + 16), fill=IGNORED if i >= len(data.classes) else COLOURS[i % len(COLOURS)]
        )
        draw.text((x + 20, y), readable(entries[i]), fill="black", font=_font(15))
    return out


@lru_cache(maxsize=4)
def _font(size: int) -> ImageFont.FreeTypeFont:
    """The font that comes with matplotlib: Pillow's own knows English letters only."""
    import matplotlib

    return ImageFont.truetype(str(Path(matplotlib.get_data_path()) / "fonts/ttf/DejaVuSans.ttf"), size)


@lru_cache(maxsize=1)
def _letters() -> frozenset[int]:
    """What that font can show."""
    from matplotlib.ft2font import FT2Font

    return frozenset(FT2Font(str(_font(15).path)).get_charmap())


def readable(text: str) -> str:
    """A text as the font can show it: other letters by their numbers, rather than as empty boxes."""
    return "".join(c if ord(c) in _letters() else f"\\u{ord(c):04x}" for c in text)


def _fitted(name: str, part: str, width: int) -> str:
    """Name and part in one line; the end of a name tells more than its start."""
    shown, font = readable(name), _font(11)
    if font.getlength(shown + part) <= width:
        return shown + part
    while shown and font.getlength(f"...{shown}{part}") > width:
        shown = shown[1:]
    return f"...{shown}{part}"


def _legend(entries: list[str], width: int) -> tuple[list[tuple[float, int]], int]:
    """Left edge and line of each entry, and the number of lines."""
    places: list[tuple[float, int]] = []
    x, line = 8.0, 0
    for label in entries:
        wide = 20 + _font(15).getlength(readable(label)) + 24
        if x + wide > width and x > 8:
            x, line = 8.0, line + 1
        places.append((x, line))
        x += wide
    return places, line + 1


def write(data: PreparedDataset, path: Path, count: int = 24, parts: Mapping[str, str] | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    mosaic(data, count, parts=parts).save(path)
