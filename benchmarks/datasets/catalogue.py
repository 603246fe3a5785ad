"""The data sets that can be named: what each is, what its licence forbids, how to get it."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import platformdirs

from benchmarks.errors import RequestError, nearest


@dataclass(frozen=True)
class DatasetSpec:
    """One entry. `module` is imported when the set is prepared; its `read(source)` yields the samples."""

    name: str
    title: str
    module: str
    version: int
    """Raise it when `read` gives other images or boxes for the same source."""
    classes: tuple[str, ...]
    images: int
    boxes: int
    native_size: int
    """Longer side of its images in pixels."""
    split: str
    """The default split list, a file in `splits/` without its extension."""
    licence: str
    redistributable: bool
    homepage: str
    citation: str
    how_to_get: str
    embedded: bool = False
    """Whether it is made on the spot, without any input."""
    folds: int = 5
    overlaps: bool = False
    """Whether its images may be crops of one larger image that overlap; a split must then keep those together."""


CATALOGUE: dict[str, DatasetSpec] = {
    spec.name: spec
    for spec in (
        DatasetSpec(
            name="synthetic_small",
            title="Synthetic metal surfaces with small defects",
            module="benchmarks.datasets.synthetic",
            version=1,
            classes=("crack", "inclusion", "missing_pattern", "pit", "ring_stain", "scratch"),
            images=300,
            boxes=787,
            native_size=160,
            split="synthetic_small-5fold-v1",
            licence="Apache-2.0, as this project",
            redistributable=True,
            homepage="this project",
            citation="CANet-Bench contributors, CANet-Bench, 2026",
            how_to_get="made on your machine in seconds, the same bytes everywhere",
            embedded=True,
        ),
        DatasetSpec(
            name="neu_det",
            title="NEU surface defect database, detection part (hot-rolled steel strip)",
            module="benchmarks.datasets.neu_det",
            version=1,
            classes=("crazing", "inclusion", "patches", "pitted_surface", "rolled-in_scale", "scratches"),
            images=1800,
            boxes=4189,
            native_size=200,
            split="neu_det-5fold-v1",
            overlaps=True,
            licence="none stated; for academic use, not to be redistributed",
            redistributable=False,
            homepage="http://faculty.neu.edu.cn/songkechen/en/zhym/263269/list/index.htm",
            citation=(
                "Y. He, K. Song, Q. Meng, Y. Yan, An end-to-end steel surface defect detection approach via fusing "
                "multiple hierarchical features, IEEE Trans. Instrum. Meas. 69(4), 2020, doi:10.1109/TIM.2019.2915404"
            ),
            how_to_get="download NEU-DET.zip from the homepage (IMAGES/*.jpg and ANNOTATIONS/*.xml)",
        ),
    )
}


def get(name: str) -> DatasetSpec:
    """The entry called `name`. RequestError with the nearest names otherwise."""
    if name not in CATALOGUE:
        raise RequestError(f"no data set is called {name!r}; {nearest(name, CATALOGUE)}")
    return CATALOGUE[name]


def data_root(override: Path | str | None = None) -> Path:
    """Where prepared sets lie: `override`, else $CANET_BENCH_DATA, else the user's cache folder."""
    chosen = override or os.environ.get("CANET_BENCH_DATA")
    return Path(chosen).expanduser() if chosen else platformdirs.user_cache_path("canet-bench") / "datasets"
