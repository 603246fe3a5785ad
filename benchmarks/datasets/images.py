"""Images are decoded, not believed: few formats, a cap on pixels, sizes from the pixels."""

from __future__ import annotations

import io
import struct
import warnings
import zlib

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from benchmarks.errors import DataError

FORMATS = ("JPEG", "PNG", "BMP")
MAX_PIXELS = 64_000_000


def decode(data: bytes, where: str) -> NDArray[np.uint8]:
    """The (height, width, 3) RGB pixels of an encoded image.

    Args:
        where: how an error names the file.

    Raises:
        DataError: not a JPEG, PNG or BMP, damaged, truncated, or too large.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(data), formats=FORMATS) as image:
                if image.width * image.height > MAX_PIXELS:
                    raise DataError(f"{where}: {image.width}x{image.height} pixels are more than {MAX_PIXELS} allowed")
                image.load()
                return np.asarray(image.convert("RGB"))
    except UnidentifiedImageError:
        raise DataError(f"{where}: not a JPEG, PNG or BMP image; replace the file") from None
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as e:
        raise DataError(f"{where}: too many pixels ({e})") from None
    # Pillow's decoders raise whatever the damage makes them trip over.
    except (OSError, SyntaxError, ValueError, EOFError, IndexError, TypeError, KeyError, OverflowError) as e:
        raise DataError(f"{where}: damaged image ({e}); replace the file") from None
    except (struct.error, zlib.error, MemoryError, AttributeError, ArithmeticError) as e:
        raise DataError(f"{where}: damaged image ({e}); replace the file") from None
