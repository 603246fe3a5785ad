"""The data sets that can be named: what each is, what its licence forbids, how to get it."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
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
    known: Mapping[str, str] = field(default_factory=dict)
    """Findings that the original set is known to have, and what is done about them."""
    aside: str = ""
    """What the names of images start with that fold lists leave out."""
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
            known={"duplicate_image": "keep"},  # patches_101 and patches_105
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
        DatasetSpec(
            name="deep_pcb",
            title="DeepPCB, tested printed circuit boards, binarised (500 defect-free templates beside them)",
            module="benchmarks.datasets.deep_pcb",
            version=1,
            classes=("open", "short", "mousebite", "spur", "copper", "pin-hole"),
            images=2000,
            boxes=10013,
            native_size=640,
            split="deep_pcb-5fold-v1",
            aside="templates/",
            licence="LICENSE file says MIT, README says for research only: ask the authors before passing it on",
            redistributable=False,
            homepage="https://github.com/tangsanli5201/DeepPCB",
            citation="S. Tang, F. He, X. Huang, J. Yang, On-line PCB defect detector on a new PCB defect dataset, 2019",
            how_to_get="clone the homepage's repository, or download it as a zip; --from takes either (or its PCBData)",
        ),
    )
}


@dataclass(frozen=True)
class Guide:
    """A public set that circulates in a format of `formats` and could not be had for testing: unverified.

    It is prepared like a set of the user's own, and a fold list is made on the user's machine.
    """

    name: str
    title: str
    form: str
    stated: str
    """Images, boxes and classes as its authors state them."""
    licence: str
    homepage: str
    citation: str
    how_to_get: str


ELSEWHERE: dict[str, Guide] = {
    guide.name: guide
    for guide in (
        Guide(
            name="gc10_det",
            title="GC10-DET, metallic surfaces",
            form="voc",
            stated="about 2,300 images, ten classes",
            licence="none found in its repository: do not pass it on",
            homepage="https://github.com/lvxiaoming2019/GC10-DET-Metallic-Surface-Defect-Detection-Datasets",
            citation=(
                "X. Lv, F. Duan, J. Jiang, X. Fu, L. Gan, Deep metallic surface defect detection: the new "
                "benchmark and detection network, Sensors 20(6), 2020, doi:10.3390/s20061562"
            ),
            how_to_get="follow the download link on the homepage; unpack, so that images and XML lie in one folder",
        ),
        Guide(
            name="pku_pcb",
            title="PKU-Market-PCB, bare printed circuit boards",
            form="voc",
            stated="693 images, 2,953 boxes, six classes",
            licence="unconfirmed: do not pass it on",
            homepage="https://arxiv.org/abs/1901.08204",
            citation="W. Huang, P. Wei, A PCB dataset for defects detection and classification, 2019, arXiv:1901.08204",
            how_to_get="the paper names the download page; leave the folder with rotated copies out",
        ),
        Guide(
            name="dspcbsd_plus",
            title="DsPCBSD+, printed circuit boards",
            form="auto",
            stated="10,259 images, 20,276 boxes, nine classes",
            licence="openly accessible; read the terms at the download before passing it on",
            homepage="https://doi.org/10.1038/s41597-024-03656-8",
            citation=(
                "S. Lv et al., A dataset for deep learning based detection of printed circuit board surface defect, "
                "Scientific Data 11, 2024, doi:10.1038/s41597-024-03656-8"
            ),
            how_to_get="the article's data section links the download; name the folder of one of its formats",
        ),
    )
}


OWN_VERSION = 1
"""Raise it when `formats` reads other images or boxes from the same files."""

_NAME = re.compile(r"[a-z0-9][a-z0-9_]{0,63}")


def own_spec(name: str, title: str, classes: tuple[str, ...], images: int, boxes: int, native_size: int) -> DatasetSpec:
    """The entry of a set of the user's own. RequestError for a name that would not do."""
    if not _NAME.fullmatch(name):
        raise RequestError(f"{name!r} cannot name a data set: use small letters, digits and _, a letter or digit first")
    return DatasetSpec(
        name=name,
        title=title,
        module="",
        version=OWN_VERSION,
        classes=classes,
        images=images,
        boxes=boxes,
        native_size=native_size,
        split=f"{name}-5fold-v1",
        licence="yours to know",
        redistributable=False,
        homepage="",
        citation="",
        how_to_get=f"python -m benchmarks.datasets prepare {name} --from PATH --format auto",
    )


def get(name: str, root: Path | str | None = None) -> DatasetSpec:
    """The entry called `name`, or that of a set of the user's own that is prepared under the data root.

    RequestError with the nearest names otherwise.
    """
    if name in CATALOGUE:
        return CATALOGUE[name]
    own = own_sets(root)
    if name in own:
        return own[name]
    if name in ELSEWHERE:
        raise RequestError(
            f"data set {name!r} is not prepared under {data_root(root)}; `python -m benchmarks.datasets show {name}` "
            f"says how to get it, then: python -m benchmarks.datasets prepare {name} --from PATH"
        )
    raise RequestError(f"no data set is called {name!r}; {nearest(name, [*CATALOGUE, *ELSEWHERE, *own])}")


def own_sets(root: Path | str | None = None) -> dict[str, DatasetSpec]:
    """The user's own sets that are prepared under the data root. What cannot be read is not among them."""
    found = {}
    for path in sorted(data_root(root).glob("*/manifest.json")):
        if path.parent.name.startswith(".") or path.parent.name in CATALOGUE:
            continue
        try:
            manifest = json.loads(path.read_bytes())
            own = manifest["own"]
            found[path.parent.name] = own_spec(
                path.parent.name,
                own["title"],
                tuple(manifest["classes"]),
                manifest["images"],
                manifest["boxes"],
                own["native_size"],
            )
        except (OSError, ValueError, KeyError, TypeError, RequestError):
            continue
    return found


def data_root(override: Path | str | None = None) -> Path:
    """Where prepared sets lie: `override`, else $CANET_BENCH_DATA, else the user's cache folder."""
    chosen = override or os.environ.get("CANET_BENCH_DATA")
    return Path(chosen).expanduser() if chosen else platformdirs.user_cache_path("canet-bench") / "datasets"
