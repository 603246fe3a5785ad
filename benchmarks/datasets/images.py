"""Images are decoded, not believed: few formats, a cap on pixels, sizes from the pixels."""

from __future__ import annotations

import contextlib
import io
import struct
import warnings
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from benchmarks.errors import DataError

FORMATS = ("JPEG", "PNG", "BMP")
MAX_PIXELS = 64_000_000


@dataclass(frozen=True)
class Decoded:
    """RGB pixels (height, width, 3), upright and with 8 bits, and what had to be done for that."""

    pixels: NDArray[np.uint8]
    peculiar: tuple[str, ...]
    """Kinds of finding: "rotated_image", "deep_image"."""


@contextlib.contextmanager
def _opened(data: bytes, where: str, load: bool = True) -> Iterator[Image.Image]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(data), formats=FORMATS) as image:
                if image.width * image.height > MAX_PIXELS:
                    raise DataError(f"{where}: {image.width}x{image.height} pixels are more than {MAX_PIXELS} allowed")
                if load:
                    image.load()
                yield image
    except UnidentifiedImageError:
        raise DataError(f"{where}: not a JPEG, PNG or BMP image; replace the file") from None
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as e:
        raise DataError(f"{where}: too many pixels ({e})") from None
    # Pillow's decoders raise whatever the damage makes them trip over.
    except (OSError, SyntaxError, ValueError, EOFError, IndexError, TypeError, KeyError, OverflowError) as e:
        raise DataError(f"{where}: damaged image ({e}); replace the file") from None
    except (struct.error, zlib.error, MemoryError, AttributeError, ArithmeticError) as e:
        raise DataError(f"{where}: damaged image ({e}); replace the file") from None


def decode(data: bytes, where: str) -> NDArray[np.uint8]:
    """The (height, width, 3) RGB pixels of an encoded image, as they are stored.

    Args:
        where: how an error names the file.

    Raises:
        DataError: not a JPEG, PNG or BMP, damaged, truncated, or too large.
    """
    with _opened(data, where) as image:
        return np.asarray(image.convert("RGB"))


def size(data: bytes, where: str) -> tuple[int, int]:
    """Width and height as the file's header has them. DataError as for `decode`; the pixels are not looked at."""
    with _opened(data, where, load=False) as image:
        return image.size


def values(data: bytes, where: str) -> NDArray[np.int64]:
    """The (height, width) values of a mask: indices of a palette, or grey.

    DataError as for `decode`, and for colours.
    """
    with _opened(data, where) as image:
        if image.mode not in ("1", "L", "P", "I", "I;16"):
            pixels = np.asarray(image.convert("RGB"))
            if (pixels != pixels[..., :1]).any():
                raise DataError(f"{where}: a mask in colours; it needs one value per class, as grey or as a palette")
            return pixels[..., 0].astype(np.int64)
        return np.asarray(image).astype(np.int64)


def examine(data: bytes, where: str) -> Decoded:
    """Like `decode`, for data that nobody has looked at: EXIF orientation and depth are noticed and undone."""
    with _opened(data, where) as image:
        peculiar = []
        if image.getexif().get(ExifTags.Base.Orientation, 1) not in (1, None):
            peculiar.append("rotated_image")
            image = ImageOps.exif_transpose(image)
        if image.mode.startswith("I") or image.mode == "F":
            peculiar.append("deep_image")
            upper = np.asarray(image).astype(np.int64) >> 8
            image = Image.fromarray(np.clip(upper, 0, 255).astype(np.uint8))
        return Decoded(np.asarray(image.convert("RGB")), tuple(peculiar))


def encode(pixels: NDArray[np.uint8]) -> bytes:
    """A PNG of RGB pixels, grey where its channels are equal."""
    grey = (pixels[..., 0] == pixels[..., 1]).all() and (pixels[..., 0] == pixels[..., 2]).all()
    out = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels[..., 0]) if grey else pixels).save(out, "PNG")
    return out.getvalue()
