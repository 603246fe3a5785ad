"""The data sets that can be named: what each is, what its licence forbids, how to get it."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import platformdirs

from ablations.registry import by_name
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
    layouts: str = ""
    """In which forms it circulates that `read` takes."""
    manifest: str = ""
    """SHA-256 of the manifest that preparing the original gives: who has it has the same images and boxes."""
    embedded: bool = False
    """Whether it is made on the spot, without any input."""
    folds: int = 5
    known: Mapping[str, str] = field(default_factory=dict)
    """Findings that the original set is known to have, and what is done about them."""
    excluded: str = ""
    """What the names of images start with that fold lists leave out."""
    only_tested: str = ""
    """What the names of images start with that fold lists deal out to be tested on, and never train on."""
    overlaps: bool = False
    """Whether its images may be crops of one larger image that overlap; a split must then keep those together."""


CATALOGUE: dict[str, DatasetSpec] = by_name(
    (
        DatasetSpec(
            name="synthetic_small",
            title="Synthetic metal surfaces with small defects",
            module="benchmarks.datasets.synthetic",
            version=2,
            classes=("crack", "inclusion", "missing_pattern", "pit", "ring_stain", "scratch"),
            images=1400,
            boxes=1942,
            native_size=128,
            split="synthetic_small-4fold-v2",
            folds=4,
            only_tested="good_",
            licence="Apache-2.0, as this project",
            redistributable=True,
            homepage="this project",
            citation="CANet-Bench contributors, CANet-Bench, 2026",
            how_to_get="made on your machine in seconds, the same bytes everywhere",
            layouts="none: it is made by this project",
            manifest="944da989c114d984e43948e74cf4c71022c1a99384382456e34ae1072612c320",
            embedded=True,
        ),
        DatasetSpec(
            name="synthetic_smoke",
            title="Clear defects on 64 px of metal: for suite `smoke`, no measure of a model",
            module="benchmarks.datasets.synthetic_smoke",
            version=1,
            classes=("pit", "ring_stain"),
            images=168,
            boxes=299,
            native_size=64,
            split="synthetic_smoke-4fold-v1",
            folds=4,
            licence="Apache-2.0, as this project",
            redistributable=True,
            homepage="this project",
            citation="CANet-Bench contributors, CANet-Bench, 2026",
            how_to_get="made on your machine in seconds, the same bytes everywhere",
            layouts="none: it is made by this project",
            manifest="dbebe655a50182cf772c3b28b599be13bc09b3eff363d35c5e981b148c0948f1",
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
            split="neu_det-5fold-v2",
            # patches_101 and patches_105; three boxes that are stated twice, one in crazing_120; 81 boxes marked as
            # difficult count, as in all that is published on the set.
            known={"duplicate_image": "keep", "duplicate_box": "keep", "difficult": "keep"},
            overlaps=True,
            licence="none stated; for academic use, not to be redistributed",
            redistributable=False,
            homepage="http://faculty.neu.edu.cn/songkechen/en/zhym/263269/list/index.htm",
            citation=(
                "Y. He, K. Song, Q. Meng, Y. Yan, An end-to-end steel surface defect detection approach via fusing "
                "multiple hierarchical features, IEEE Trans. Instrum. Meas. 69(4), 2020, doi:10.1109/TIM.2019.2915404"
            ),
            how_to_get="download NEU-DET.zip from the homepage; no address is known that comes with a digest",
            layouts=(
                "the original (IMAGES/*.jpg, ANNOTATIONS/*.xml), or parted (train/images/crazing/*.jpg, "
                "train/annotations/*.xml, validation/...), whose parting is not official and not used; zip or folder"
            ),
            manifest="c8e1aec060bab3b0bd2c64311338d99496cf11110f230f03ae8b70b4c07a3b53",
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
            excluded="templates/",
            licence="LICENSE file says MIT, README says for research only: ask the authors before passing it on",
            redistributable=False,
            homepage="https://github.com/tangsanli5201/DeepPCB",
            citation="S. Tang, F. He, X. Huang, J. Yang, On-line PCB defect detector on a new PCB defect dataset, 2019",
            how_to_get=(
                "clone the homepage's repository, or download it as a zip, or let --from do so: "
                "https://github.com/tangsanli5201/DeepPCB/archive/refs/heads/master.zip (no digest is published)"
            ),
            layouts="the repository, its zip, or its PCBData folder (trainval.txt, test.txt, groupNNNNN/...)",
            manifest="a7cc6bd9b651ef347e97d65bef2905e8a6dc3f56a0e9e8eeaeda30972b92804d",
        ),
    )
)


@dataclass(frozen=True)
class UnverifiedSpec:
    """A public set that could not be had for testing: what is said of it is its authors' word, unverified.

    It is prepared like a set of the user's own, and a fold list is made on the user's machine.
    """

    name: str
    title: str
    classes: tuple[str, ...]
    """Empty where nobody states them: those that its files name are taken."""
    images: int
    boxes: int | None
    """None where its authors count none."""
    sizes: str
    licence: str
    homepage: str
    citation: str
    how_to_get: str
    layouts: str
    format: str = "auto"
    """A format of `readers`, unless `module` reads it."""
    module: str = ""
    """Like a catalogued set's; its `read(source)` gives a `readers.Content`."""
    labels: Mapping[str, str] = field(default_factory=dict)
    """What its files call a class, where that is not the class's name here."""
    rule: str = ""
    """How boxes are made of what it has instead."""
    without: tuple[str, ...] = ()
    """Folders of it that are not read."""
    policies: tuple[str, ...] = ()
    """What it takes to get past the findings that others report of it."""
    url: str = ""
    """Where it can be downloaded without a login, with `digest`, "algorithm:hex", as its authors publish it."""
    digest: str = ""


MASKS = "each 8-connected component of a class's mask becomes the box that just holds it, however small it is"

UNVERIFIED: dict[str, UnverifiedSpec] = by_name(
    (
        UnverifiedSpec(
            name="gc10_det",
            title="GC10-DET, metallic surfaces",
            classes=(
                "punching_hole",
                "welding_line",
                "crescent_gap",
                "water_spot",
                "oil_spot",
                "silk_spot",
                "inclusion",
                "rolled_pit",
                "crease",
                "waist_folding",
            ),
            images=2300,
            boxes=3563,
            sizes="2048x1000",
            licence="none in its repository, CC BY 4.0 by other accounts of it: ask the authors before passing it on",
            homepage="https://github.com/lvxiaoming2019/GC10-DET-Metallic-Surface-Defect-Detection-Datasets",
            citation=(
                "X. Lv, F. Duan, J. Jiang, X. Fu, L. Gan, Deep metallic surface defect detection: the new "
                "benchmark and detection network, Sensors 20(6), 2020, doi:10.3390/s20061562"
            ),
            how_to_get="follow the download link on the homepage, or Kaggle's alex000kim/gc10det",
            layouts="VOC: images in the folders 1 to 10, lable/*.xml; zip or folder",
            format="voc",
            labels={
                "1_chongkong": "punching_hole",
                "2_hanfeng": "welding_line",
                "3_yueyawan": "crescent_gap",
                "4_shuiban": "water_spot",
                "5_youban": "oil_spot",
                "6_siban": "silk_spot",
                "7_yiwu": "inclusion",
                "8_yahen": "rolled_pit",
                "9_zhehen": "crease",
                "10_yaozhe": "waist_folding",
                "10_yaozhed": "waist_folding",
            },
            policies=("duplicate_image=drop", "missing_annotation=drop", "unknown_class=drop"),
        ),
        UnverifiedSpec(
            name="dagm2007",
            title="DAGM 2007, weakly supervised learning for industrial optical inspection (generated textures)",
            classes=tuple(f"Class{k}" for k in range(1, 11)),
            images=16100,
            boxes=None,
            sizes="512x512",
            licence="CC BY 4.0 at Zenodo: name the authors, and say what you changed",
            homepage="https://doi.org/10.5281/zenodo.8086136",
            citation=(
                "M. Wieler, T. Hahn, F. A. Hamprecht, Weakly supervised learning for industrial optical inspection, "
                "29th Annual Symposium of the German Association for Pattern Recognition, 2007, "
                "doi:10.5281/zenodo.8086136"
            ),
            how_to_get="download Class1.zip to Class10.zip from the homepage and unpack them into one folder",
            layouts=(
                "Class1/Train/0576.PNG with Class1/Train/Label/0576_label.PNG, the same in Test (the homepage's, and "
                "Kaggle's); or the first one, Class1/1.png and Class1_def/1.png with Class1_def/labels.txt (ellipses)"
            ),
            module="benchmarks.datasets.dagm2007",
            rule=(
                f"{MASKS}; an ellipse becomes the box that just holds it. Both are drawn generously around the defect. "
                "An image without a label is defect-free"
            ),
        ),
        UnverifiedSpec(
            name="pku_pcb",
            title="PKU-Market-PCB (HRIPCB), bare printed circuit boards",
            classes=("missing_hole", "mouse_bite", "open_circuit", "short", "spur", "spurious_copper"),
            images=693,
            boxes=2953,
            sizes="up to 4,608",
            licence="unconfirmed: do not pass it on",
            homepage="https://arxiv.org/abs/1901.08204",
            citation="W. Huang, P. Wei, A PCB dataset for defects detection and classification, 2019, arXiv:1901.08204",
            how_to_get="the paper names the download page (robotics.pkusz.edu.cn); or Kaggle's akhatova/pcb-defects",
            layouts=(
                "VOC: images/Missing_hole/*.jpg and Annotations/Missing_hole/*.xml, ...; rotated copies (rotation) "
                "and defect-free boards (PCB_USED) are not read"
            ),
            format="voc",
            without=("rotation", "PCB_USED"),
        ),
        UnverifiedSpec(
            name="csdd",
            title="CSDD, casting surfaces; the set nearest to ESD (engine surfaces) of the CANet paper",
            classes=(),
            images=2100,
            boxes=56356,
            sizes="?",
            licence="CC BY-NC-SA 4.0: not for commercial use; what is made of it under the same licence",
            homepage="https://github.com/Kerio99/CSDD",
            citation=(
                "K. Mao, P. Wei, Y. Wang, M. Liu, S. Wang, N. Zheng, CSDD: a benchmark dataset for casting surface "
                "defect detection and segmentation, IEEE/CAA J. Autom. Sinica 12(5), 2025, "
                "doi:10.1109/JAS.2025.125228"
            ),
            how_to_get=(
                "ask its authors by e-mail, see the homepage. ESD itself was not released; P. Wei and M. Liu are "
                "named as authors of both, and whether the sets share images is not stated"
            ),
            layouts=(
                "not described in public; boxes as COCO, VOC or YOLO are found by themselves, "
                "masks (images/*, masks/*.png, classes.txt) with --format masks"
            ),
            rule=f"{MASKS}, where it is read from masks",
        ),
        UnverifiedSpec(
            name="dspcbsd_plus",
            title="DsPCBSD+, printed circuit boards",
            classes=(
                "short",
                "spur",
                "spurious_copper",
                "open",
                "mouse_bite",
                "hole_breakout",
                "conductor_scratch",
                "conductor_foreign_object",
                "base_material_foreign_object",
            ),
            images=10259,
            boxes=20276,
            sizes="226x226, some 108x108",
            licence="CC BY 4.0: name the authors, and say what you changed",
            homepage="https://doi.org/10.6084/m9.figshare.24970329",
            citation=(
                "S. Lv et al., A dataset for deep learning based detection of printed circuit board surface defect, "
                "Scientific Data 11, 2024, doi:10.1038/s41597-024-03656-8"
            ),
            how_to_get="downloaded by itself (129 MB); --from takes an archive that you have",
            layouts=(
                "COCO: Data_COCO/annotations/instances_train2017.json, ...; the same images as YOLO (Data_YOLO) "
                "are not read"
            ),
            format="coco",
            labels={
                "SH": "short",
                "SP": "spur",
                "SC": "spurious_copper",
                "OP": "open",
                "MB": "mouse_bite",
                "HB": "hole_breakout",
                "CS": "conductor_scratch",
                "CFO": "conductor_foreign_object",
                "BMFO": "base_material_foreign_object",
            },
            without=("Data_YOLO",),
            policies=("box_outside=fix",),
            url="https://ndownloader.figshare.com/files/44069552",
            digest="md5:508334b65bdaea7336f4c1b5d5a80a81",
        ),
        UnverifiedSpec(
            name="severstal",
            title="Severstal steel defect detection (flat steel strip), the labelled images",
            classes=("defect_1", "defect_2", "defect_3", "defect_4"),
            images=12568,
            boxes=None,
            sizes="1600x256",
            licence="the rules accepted at the download; as far as known no commercial use: do not pass it on",
            homepage="https://www.kaggle.com/c/severstal-steel-defect-detection",
            citation="A. Grishin et al., Severstal: steel defect detection, Kaggle, 2019",
            how_to_get="log in at the homepage, accept the rules (Data), download the archive",
            layouts="train_images/*.jpg, train.csv (ImageId, ClassId, EncodedPixels, or the first two as one)",
            module="benchmarks.datasets.severstal",
            rule=f"{MASKS}; an image that train.csv does not name is defect-free",
            without=("test_images",),
        ),
    )
)


OWN_VERSION = 2
"""Raise it when `readers`, or the module of an unverified set, reads other images or boxes from the same files."""

_NAME = re.compile(r"[a-z0-9][a-z0-9_]{0,63}")


def own_spec(
    name: str,
    title: str,
    classes: tuple[str, ...],
    images: int,
    boxes: int,
    native_size: int,
    split: str = "",
    folds: int = 5,
) -> DatasetSpec:
    """The entry of a set of the user's own. RequestError for a name that would not do.

    Args:
        split: the default split list; "" for the folds made for it.
    """
    if not _NAME.fullmatch(name):
        raise RequestError(f"{name!r} cannot name a data set: use small letters, digits and _, a letter or digit first")
    unverified = UNVERIFIED.get(name)
    return DatasetSpec(
        name=name,
        title=title,
        module="",
        version=OWN_VERSION,
        classes=classes,
        images=images,
        boxes=boxes,
        native_size=native_size,
        split=split or f"{name}-5fold-v1",
        folds=folds,
        licence=unverified.licence if unverified else "yours to know",
        redistributable=False,
        homepage=unverified.homepage if unverified else "",
        citation=unverified.citation if unverified else "",
        how_to_get=command(name),
    )


def command(name: str) -> str:
    """What prepares a set."""
    spec, unverified = CATALOGUE.get(name), UNVERIFIED.get(name)
    if unverified:
        tail = ("" if unverified.url else " --from PATH") + "".join(
            f" --policy {policy}" for policy in unverified.policies
        )
    elif spec:
        tail = "" if spec.embedded else " --from PATH"
    else:
        tail = " --from PATH --format auto"
    return f"python -m benchmarks.datasets prepare {name}{tail}"


def get(name: str, root: Path | str | None = None) -> DatasetSpec:
    """The entry called `name`, or that of a set of the user's own that is prepared under the data root.

    RequestError with the nearest names otherwise.
    """
    if name in CATALOGUE:
        return CATALOGUE[name]
    own = own_sets(root)
    if name in own:
        return own[name]
    if name in UNVERIFIED:
        raise RequestError(
            f"data set {name!r} is not prepared under {data_root(root)}; `python -m benchmarks.datasets show {name}` "
            f"says how to get it, then: {command(name)}"
        )
    raise RequestError(f"no data set is called {name!r}; {nearest(name, [*CATALOGUE, *UNVERIFIED, *own])}")


def own_sets(root: Path | str | None = None) -> dict[str, DatasetSpec]:
    """The user's own sets that are prepared under the data root. What cannot be read is not among them."""
    found: dict[str, DatasetSpec] = {}
    for path in files_of(root, "*/manifest.json"):
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
                own.get("split", ""),
                own.get("folds", 5),
            )
        except (OSError, ValueError, KeyError, TypeError, RequestError):
            continue
    return found


def files_of(root: Path | str | None, pattern: str) -> list[Path]:
    """Files below the data root; none for a user who has no place for one, and may still read records."""
    try:
        return sorted(data_root(root).glob(pattern))
    except (RequestError, PermissionError):
        return []


def data_root(override: Path | str | None = None) -> Path:
    """Where prepared sets lie: `override`, else $CANET_BENCH_DATA, else the user's cache folder.

    Raises:
        RequestError: there is none of them, as for a user without a home (in a container, say).
    """
    name = "--data-root, or CANET_BENCH_DATA, must name a folder for data sets"
    if chosen := override or os.environ.get("CANET_BENCH_DATA"):
        try:
            return Path(chosen).expanduser()
        except RuntimeError as e:
            raise RequestError(f"{name}: {chosen}: {e}") from None
    try:
        root = platformdirs.user_cache_path("canet-bench") / "datasets"
    except (RuntimeError, KeyError):
        root = Path("~")  # what is said of a user without an entry, too
    if not root.is_absolute():
        raise RequestError(f"{name}: this user has no home folder")
    # os.path.exists: Path.exists raises where a folder must not be looked into.
    there = next(folder for folder in (root, *root.parents) if os.path.exists(folder))
    if there != root and not os.access(there, os.W_OK | os.X_OK):
        raise RequestError(f"{name}: {root} is not there, and {there} cannot be written into")
    return root
