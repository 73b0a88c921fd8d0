"""How a picture file of others is opened, and what Pillow raises for one that is damaged, unknown or too large."""

from __future__ import annotations

import io
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

POSTSCRIPT = (b"%!PS", b"\xc5\xd0\xd3\xc6")  # the first bytes of a program, plain and with a preview
# Of a codestream (ISO/IEC 15444-1, annex A): no pixels' bytes are like its last marker.
JPEG2000_BEGIN, JPEG2000_END = b"\xff\x4f\xff\x51", b"\xff\xd9"
# Formats that are not opened: EPS has Ghostscript run the program, and IPTC opens what is in it, of any format.
PROGRAMS = {"EPS": "a program in PostScript", "IPTC": "a file that may hold a program in PostScript"}


def open_content(content: bytes) -> Image.Image:
    """A file's content as a picture that is not decoded yet, in any format that Pillow knows but those of PROGRAMS.

    Raises what is in BROKEN.
    """
    Image.preinit()  # first: the usual formats are tried first
    Image.init()
    picture = Image.open(io.BytesIO(content), formats=[name for name in Image.ID if name not in PROGRAMS])
    if picture.format == "JPEG2000" and content.find(JPEG2000_END, content.find(JPEG2000_BEGIN)) < 0:
        raise OSError("image file is truncated: its codestream has no end")  # OpenJPEG would guess what is missing
    return picture
