"""A NEU-DET in small: its layout, filled with pictures of our own."""

from __future__ import annotations

import io
import os
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks.datasets import catalogue

CRAZING = ("crazing", 10, 12, 60, 70)


def jpeg(seed: int = 0, size: tuple[int, int] = (200, 200)) -> bytes:
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (10, 10), dtype=np.uint8))
    out = io.BytesIO()
    coarse.resize(size, Image.Resampling.BICUBIC).convert("RGB").save(out, "JPEG", quality=85)
    return out.getvalue()


def voc(*objects: tuple[str, float, float, float, float], width: int = 200, height: int = 200) -> str:
    items = "".join(
        f"<object><name>{label}</name><bndbox><xmin>{x1}</xmin><ymin>{y1}</ymin><xmax>{x2}</xmax><ymax>{y2}</ymax>"
        "</bndbox></object>"
        for label, x1, y1, x2, y2 in objects
    )
    size = f"<size><width>{width}</width><height>{height}</height><depth>1</depth></size>"
    return f"<annotation><filename>any</filename>{size}{items}</annotation>"


@pytest.fixture
def neu_files() -> dict[str, bytes]:
    """Three images with four boxes, by their names in the archive."""
    return {
        "NEU-DET/IMAGES/crazing_1.jpg": jpeg(1),
        "NEU-DET/IMAGES/patches_7.jpg": jpeg(2),
        "NEU-DET/IMAGES/scratches_2.jpg": jpeg(3),
        "NEU-DET/ANNOTATIONS/crazing_1.xml": voc(CRAZING).encode(),
        "NEU-DET/ANNOTATIONS/patches_7.xml": voc(("patches", 1, 1, 200, 99), ("inclusion", 5, 5, 20, 20)).encode(),
        "NEU-DET/ANNOTATIONS/scratches_2.xml": voc(("scratches", 100, 3, 110, 190)).encode(),
    }


@pytest.fixture
def small_neu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the catalogue expect what `neu_files` holds."""
    from dataclasses import replace

    spec = replace(catalogue.CATALOGUE["neu_det"], images=3, boxes=4)
    monkeypatch.setitem(catalogue.CATALOGUE, "neu_det", spec)


def write_zip(path: Path, files: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return path


def write_folder(path: Path, files: dict[str, bytes]) -> Path:
    for name, data in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(data)
    return path


def archive(name: str) -> Path:
    """An original archive; the test is skipped where there is none."""
    folder = os.environ.get("CANET_BENCH_ARCHIVES")
    if not folder:
        pytest.skip(f"CANET_BENCH_ARCHIVES is unset: {name} not tested")
    path = Path(folder) / name
    if not path.exists():
        pytest.skip(f"{path} does not exist: {name} not tested")
    return path


@pytest.fixture(scope="session")
def neu(tmp_path_factory: pytest.TempPathFactory):
    """The real NEU-DET, prepared once for the session, in a root of its own: elsewhere it counts as missing."""
    from benchmarks.datasets.prepared import prepare

    return prepare("neu_det", tmp_path_factory.mktemp("neu"), archive("NEU-DET.zip"))


@pytest.fixture
def synthetic_data(synthetic):
    """The session's `synthetic_small`, under a name that a test may use beside the module's."""
    return synthetic
