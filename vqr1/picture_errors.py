"""What Pillow raises for a picture file that is damaged, of no format that it knows, or too large to be decoded."""

from __future__ import annotations

import struct
import warnings
import zlib

from PIL import Image

MAX_PIXELS = 150_000_000  # decoded, such a picture takes 450 MB

# Pillow's own limit is ours, and an error: it would only warn up to twice that.
TOO_LARGE = (Image.DecompressionBombError, Image.DecompressionBombWarning)
BROKEN = (*TOO_LARGE, OSError, SyntaxError, ValueError, EOFError, LookupError, TypeError, AttributeError,
          ArithmeticError, RuntimeError, struct.error, zlib.error)  # fmt: skip
Image.MAX_IMAGE_PIXELS = MAX_PIXELS
warnings.simplefilter("error", Image.DecompressionBombWarning)
