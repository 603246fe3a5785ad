"""What is small: box sizes of a set, absolute and relative to the image, as a table and as a figure."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from benchmarks.datasets.prepared import PreparedDataset

SMALL = 32
TINY = 16


def boxes(data: PreparedDataset) -> pd.DataFrame:
    """One row per box: class, width, height, `size` (square root of the area, px), `share` of the image's area."""
    image = {i["id"]: i for i in data.images}
    rows = []
    for a in data.annotations:
        _, _, w, h = a["bbox"]
        owner = image[a["image_id"]]
        rows.append(
            {
                "class": data.classes[a["category_id"] - 1],
                "image": owner["file_name"],
                "width": w,
                "height": h,
                "size": float(np.sqrt(w * h)),
                "share": w * h / (owner["width"] * owner["height"]),
            }
        )
    return pd.DataFrame(rows, columns=["class", "image", "width", "height", "size", "share"])


def table(frame: pd.DataFrame, classes: tuple[str, ...]) -> pd.DataFrame:
    """Per class, and for all: counts, shares below 16 px and 32 px (COCO's small), quantiles of size and area share."""
    rows: dict[str, dict[str, Any]] = {}
    for label, part in [*((c, frame[frame["class"] == c]) for c in classes), ("all", frame)]:
        rows[label] = {
            "boxes": len(part),
            "images": part["image"].nunique(),
            "below 16x16": (part["size"] < TINY).mean(),
            "below 32x32": (part["size"] < SMALL).mean(),
            "size p10": part["size"].quantile(0.1),
            "size median": part["size"].median(),
            "size p90": part["size"].quantile(0.9),
            "area share median": part["share"].median(),
        }
    return pd.DataFrame.from_dict(rows, orient="index")


def together(frame: pd.DataFrame, classes: tuple[str, ...]) -> pd.DataFrame:
    """(K, K) numbers of images that show a class together with another; with itself: images that show it."""
    has = pd.DataFrame(0, index=frame["image"].unique(), columns=list(classes))
    for label in classes:
        has.loc[frame.loc[frame["class"] == label, "image"].unique(), label] = 1
    return has.T @ has


def _plain_ticks(axis: Any) -> None:
    """Numbers on a logarithmic x axis as people write them."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.xaxis.set_minor_formatter(NullFormatter())


def draw(data: PreparedDataset, frame: pd.DataFrame, path: Path) -> None:
    """Write a figure with sizes per class, shares of the image's area, and which classes occur together."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    import seaborn as sns

    with (
        sns.axes_style("whitegrid"),
        plt.rc_context({"svg.hashsalt": "canet-bench", "font.size": 9, "text.parse_math": False}),
    ):
        figure, axes = plt.subplots(1, 3, figsize=(13, 3.8), layout="constrained")
        palette = dict(zip(data.classes, sns.color_palette("colorblind", len(data.classes)), strict=True))
        style = {"hue": "class", "hue_order": data.classes, "palette": palette, "legend": False}
        order = {"x": "size", "y": "class", "order": data.classes}
        sns.boxplot(frame, **order, **style, whis=(1, 99), fliersize=1.5, linewidth=0.8, ax=axes[0])
        for limit in (TINY, SMALL):
            axes[0].axvline(limit, color="0.3", linewidth=0.8, linestyle="--")
        axes[0].set(xscale="log", xlabel="square root of box area, px (dashed: 16, 32)", ylabel="")
        _plain_ticks(axes[0])
        shares = frame.assign(percent=100 * frame["share"])
        sns.ecdfplot(shares, x="percent", hue="class", hue_order=data.classes, palette=palette, ax=axes[1])
        axes[1].set(xscale="log", xlabel="share of the image's area, %", ylabel="share of boxes")
        _plain_ticks(axes[1])
        sns.move_legend(axes[1], "best", title=None, fontsize=7)
        counts = together(frame, data.classes)
        heat = {"annot": True, "fmt": "d", "cbar": False, "cmap": "Blues", "square": True, "annot_kws": {"size": 7}}
        sns.heatmap(counts, **heat, ax=axes[2])
        axes[2].set(title="images that show both")
        axes[2].tick_params(axis="x", rotation=45)
        axes[2].tick_params(axis="y", rotation=0)
        figure.suptitle(f"{data.name}: {len(frame):,} boxes in {len(data.images):,} images")
        path.parent.mkdir(parents=True, exist_ok=True)
        metadata = {"Date": None} if path.suffix == ".svg" else None
        figure.savefig(path, dpi=130, metadata=metadata)
        plt.close(figure)
