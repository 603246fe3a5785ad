"""How every figure of ours looks: colours, fonts, and one file for light pages and dark ones."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

PAGE, INK, GREY, GRID, UNTRAINED = "#ffffff", "#111827", "#374151", "#e5e7eb", "#8a94a3"
_DARK = {PAGE: "#0d1117", INK: "#e6edf3", GREY: "#b6c0cc", "#000000": "#e6edf3", GRID: "#2d333b"}
_DARK |= {"#0072b2": "#56b4e9", "#d55e00": "#f0803c", "#009e73": "#2bc196"}
"""What the colours become where a reader's page is dark."""
_FONTS = "'DejaVu Sans', Verdana, Geneva, sans-serif"
_STYLE: Any = {
    "svg.hashsalt": "canet-bench",
    "svg.fonttype": "none",
    "text.parse_math": False,  # names are data
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.edgecolor": GREY,
    "axes.linewidth": 0.8,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "xtick.color": GREY,
    "ytick.color": GREY,
    "xtick.labelsize": 9,
    "ytick.labelsize": 9,
}


@contextmanager
def our_style() -> Iterator[None]:
    """The library's own defaults and ours, whatever the reader's settings are; their backend stays."""
    import matplotlib

    defaults = {k: v for k, v in matplotlib.rcParamsDefault.items() if not k.startswith(("backend", "interactive"))}
    with matplotlib.rc_context({**defaults, **_STYLE}):
        yield


def for_pages(svg: bytes) -> bytes:
    """One file for light and dark pages, with fonts that readers have: those of the same widths first."""
    rules = "".join(
        f'[style*="{what}: {light}"]{{{what}:{dark} !important}}'
        for light, dark in _DARK.items()
        for what in ("fill", "stroke")
    )
    sheet = f"<style>@media (prefers-color-scheme: dark){{{rules}}}</style>"
    return svg.replace(b"'DejaVu Sans'", _FONTS.encode()).replace(b"<defs>", sheet.encode() + b"<defs>", 1)
