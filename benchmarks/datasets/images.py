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
from PIL import ExifTags, Image, UnidentifiedImageError

from benchmarks.errors import DataError

FORMATS = ("JPEG", "PNG", "BMP", "TIFF", "WEBP")
MAX_PIXELS = 64_000_000


@dataclass(frozen=True)
class Decoded:
    """RGB pixels (height, width, 3), upright and with 8 bits, and what had to be done for that."""

    pixels: NDArray[np.uint8]
    peculiar: tuple[str, ...]
    """Kinds of finding: "rotated_image", "deep_image", "many_frames"."""
    orientation: int = 1
    """EXIF's, that of the file: 5 to 8 have exchanged its sides."""


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
    except (UnidentifiedImageError, ImportError):  # ultralytics makes Pillow try formats that it has no package for
        raise DataError(f"{where}: not a JPEG, PNG, BMP, TIFF or WebP image; replace the file") from None
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
        DataError: not of FORMATS, damaged, truncated, or too large.
    """
    with _opened(data, where) as image:
        return np.asarray(image.convert("RGB"))


def size(data: bytes, where: str) -> tuple[int, int]:
    """Width and height as the file's header has them. DataError as for `decode`; the pixels are not looked at."""
    with _opened(data, where, load=False) as image:
        return image.size


def values(data: bytes, where: str) -> NDArray[np.int64]:
    """The (height, width) values of a mask: indices of a palette, or grey.

    DataError as for `decode`, for colours, for several pages, and for values that are no whole numbers.
    """
    with _opened(data, where) as image:
        if image.mode == "P" and getattr(image, "n_frames", 1) < 2:
            return np.asarray(image).astype(np.int64)
        return _mask_values(image, data, where, whole=True).astype(np.int64)


def shades(data: bytes, where: str) -> NDArray[np.int64]:
    """The (height, width) brightness of a mask: above 0 where it is not black, whatever number a palette gives that.

    DataError as for `decode`, for several pages, and for colours other than a palette's.
    """
    with _opened(data, where) as image:
        if image.mode != "P" or getattr(image, "n_frames", 1) > 1:
            return np.ceil(_mask_values(image, data, where, whole=False)).astype(np.int64)
        shown = _opaque(image).max(axis=2).astype(np.int64)
        return shown if shown.any() else np.asarray(image).astype(np.int64)  # a palette that was never set


def _mask_values(image: Image.Image, data: bytes, where: str, whole: bool) -> NDArray[np.float64]:
    """The (height, width) values of a mask that has no palette, 0 where it is transparent, in its own depth."""
    if (pages := getattr(image, "n_frames", 1)) > 1:
        raise DataError(
            f"{where}: a mask of {pages} pages; it needs a file for each, of which an image may have several"
        )
    deep = _deep(image, data)
    pixels = deep if deep is not None else np.asarray(image)[..., None] if image.mode in ("1", "L") else _opaque(image)
    if (pixels != pixels[..., :1]).any():
        raise DataError(f"{where}: a mask in colours; it needs one value per class, as grey or as a palette")
    found = pixels[..., 0].astype(np.float64)
    if whole and (found != np.round(found)).any():
        raise DataError(f"{where}: a mask with values that are no whole numbers; value k is line k of classes.txt")
    return found


def _opaque(image: Image.Image) -> NDArray[np.uint8]:
    """The (height, width, 3) colours, black where the image is transparent."""
    rgba = np.asarray(image.convert("RGBA"))
    return rgba[..., :3] * (rgba[..., 3:] > 0)


@dataclass(frozen=True)
class Range:
    """Values of deep images that become 0 and 255."""

    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.low:g} to {self.high:g}"


FULL = Range(0, 65535)


def examine(data: bytes, where: str, deep: Range = FULL) -> Decoded:
    """Like `decode`, for data that nobody has looked at: EXIF orientation and depth are noticed and undone.

    Args:
        deep: what becomes 0 and 255 of an image with more than 8 bits a channel.
    """
    with _opened(data, where, load=False) as image:  # Pillow turns a TIFF when it is loaded, and forgets that it did
        orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
        turned_tiff = image.format == "TIFF" and orientation in range(2, 9)
    with _opened(data, where) as image:
        peculiar = []
        frames = getattr(image, "n_frames", 1)  # before it is replaced by its pixels
        pixels = _deep(image, data)
        if pixels is not None:
            peculiar.append("deep_image")
            span = max(deep.high - deep.low, 1e-9)
            scaled = np.clip(np.round((pixels - deep.low) * (255 / span)), 0, 255).astype(np.uint8)
            exif = image.getexif()
            image = Image.fromarray(scaled[..., 0] if scaled.shape[2] == 1 else scaled)
        else:
            exif = image.getexif()
        turned = exif.get(ExifTags.Base.Orientation, 1)
        if turned in range(2, 9):
            peculiar.insert(0, "rotated_image")
            image = image.transpose(_TURNS[turned])
        elif turned_tiff:
            peculiar.insert(0, "rotated_image")
        if frames > 1:
            peculiar.append("many_frames")
        turned = orientation if "rotated_image" in peculiar else 1
        return Decoded(np.asarray(image.convert("RGB")), tuple(peculiar), turned)


_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What EXIF's orientations are undone by, as in Pillow's `ImageOps.exif_transpose`."""


def _deep(image: Image.Image, data: bytes) -> NDArray[np.float64] | None:
    """The (H, W, 1 or 3) values of an image with more than 8 bits a channel, without its alpha; None for others.

    DataError where one is no finite number, as height maps have them: no grey value stands for it; and for a TIFF in
    colours, of which Pillow keeps the upper byte alone.
    """
    if image.mode.startswith("I") or image.mode == "F":
        pixels = np.asarray(image).astype(np.float64)[..., None]
        if count := int((~np.isfinite(pixels)).sum()):
            raise DataError(f"{count} pixels are NaN or infinite; write a value of your choice there")
        return pixels
    if image.format == "PNG" and data[24] == 16:  # the bit depth of its header; Pillow keeps the upper byte only
        import torch
        from torchvision.io import ImageReadMode, decode_png

        try:
            whole = decode_png(torch.frombuffer(bytearray(data), dtype=torch.uint8), mode=ImageReadMode.UNCHANGED)
        except RuntimeError:  # its text names a path of the machine that built the reader
            raise DataError("a PNG that is cut or damaged; replace the file") from None
        channels = whole.to(torch.int32).permute(1, 2, 0).numpy().astype(np.float64)
        return channels[..., : 1 if channels.shape[2] < 3 else 3]
    if image.format == "TIFF" and max(image.tag_v2.get(258, (8,)), default=8) > 8:  # type: ignore[attr-defined]
        raise DataError("a TIFF of more than 8 bits in colours, of which only the upper bits can be read; write a PNG")
    return None


def deep_values(data: bytes, where: str) -> Range | None:
    """Smallest and largest value of an image with more than 8 bits a channel; None for others, and for damaged ones."""
    try:
        with _opened(data, where) as image:
            pixels = _deep(image, data)
    except DataError:
        return None
    return None if pixels is None else Range(float(pixels.min()), float(pixels.max()))


def encode(pixels: NDArray[np.uint8]) -> bytes:
    """A PNG of RGB pixels, grey where its channels are equal."""
    grey = (pixels[..., 0] == pixels[..., 1]).all() and (pixels[..., 0] == pixels[..., 2]).all()
    out = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels[..., 0]) if grey else pixels).save(out, "PNG")
    return out.getvalue()
