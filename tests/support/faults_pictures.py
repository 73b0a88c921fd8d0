"""Picture files in every format that is usual, of known pixels, and files that claim what they do not hold."""

from __future__ import annotations

import io
import struct
import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np
from hypothesis import strategies as st
from PIL import Image

W, H = 48, 32
EXACT, NEAR, LOSSY = 0, 1, 24  # how far a value of the pixels that are read may be from what was written


@dataclass(frozen=True)
class Made:
    """A file, and what has to be read of it: (height, width, 3) of 0 to 255."""

    content: bytes
    pixels: np.ndarray
    error: int = EXACT


def ramp(seed: int, channels: int) -> np.ndarray:
    """A soft picture, (H, W, channels), of all values."""
    y, x = np.mgrid[:H, :W]
    planes = [(x * (3 + c) + y * (5 - c) + 37 * seed) % 512 for c in range(channels)]
    return np.stack([np.minimum(plane, 511 - plane) for plane in planes], 2).astype(np.uint8)


def saved(picture: Image.Image, kind: str, **how: Any) -> bytes:
    out = io.BytesIO()
    picture.save(out, kind, **how)
    return out.getvalue()


def damaged_avif() -> bytes:
    """One for which Pillow raises RuntimeError."""
    return saved(Image.new("RGB", (200, 200)), "AVIF").replace(b"av01", b"xv01", 1)


def over_white(colour: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    share = alpha.astype(float)[..., None] / 255
    return colour * share + 255 * (1 - share)


def of_cmyk(ink: np.ndarray) -> np.ndarray:
    kept = 1 - ink.astype(float) / 255
    return 255 * kept[..., :3] * kept[..., 3:]


# What a picture with an orientation looks like upright: EXIF's table of where row 0 and column 0 are.
UPRIGHT = {
    1: lambda p: p,
    2: lambda p: p[:, ::-1],
    3: lambda p: p[::-1, ::-1],
    4: lambda p: p[::-1],
    5: lambda p: p.transpose(1, 0, 2),
    6: lambda p: p[::-1].transpose(1, 0, 2),
    7: lambda p: p[::-1, ::-1].transpose(1, 0, 2),
    8: lambda p: p[:, ::-1].transpose(1, 0, 2),
}

COLOURED = ("PNG", "BMP", "TIFF", "PPM", "TGA", "PCX", "SGI", "WEBP", "JPEG2000", "DIB", "QOI", "IM", "DDS", "ICO")
GREY = ("PNG", "BMP", "TIFF", "PPM", "TGA", "PCX", "SGI", "JPEG2000", "GIF", "IM")
WITH_ALPHA = ("PNG", "TIFF", "WEBP", "TGA", "JPEG2000", "SGI")
LOSSLESS = {"WEBP": {"lossless": True, "exact": True, "quality": 0}, "JPEG2000": {"irreversible": False}}


def coloured(kind: str, seed: int) -> Made:
    pixels = ramp(seed, 3)
    how = {"sizes": [(W, H)]} if kind == "ICO" else LOSSLESS.get(kind, {})
    return Made(saved(Image.fromarray(pixels), kind, **how), pixels)


def lossy(kind: str, seed: int) -> Made:
    pixels = np.broadcast_to(ramp(seed, 3)[:1, :1], (H, W, 3))
    return Made(saved(Image.fromarray(np.ascontiguousarray(pixels)), kind, quality=95), pixels, LOSSY)


def grey(kind: str, seed: int) -> Made:
    pixels = ramp(seed, 1)
    return Made(saved(Image.fromarray(pixels[..., 0]), kind, **LOSSLESS.get(kind, {})), np.repeat(pixels, 3, 2))


def deep(kind: str, seed: int) -> Made:
    pixels = ramp(seed, 1)[..., 0]
    values = (pixels.astype(np.uint16) << 8) + seed % 256
    return Made(saved(Image.fromarray(values), kind), np.repeat(pixels[..., None], 3, 2))


def clear(kind: str, seed: int) -> Made:
    pixels = ramp(seed, 4)
    how = LOSSLESS.get(kind, {})
    return Made(saved(Image.fromarray(pixels, "RGBA"), kind, **how), over_white(pixels[..., :3], pixels[..., 3]), NEAR)


def grey_and_clear(kind: str, seed: int) -> Made:
    pixels = ramp(seed, 2)
    expected = over_white(np.repeat(pixels[..., :1], 3, 2), pixels[..., 1])
    return Made(saved(Image.fromarray(pixels, "LA"), kind), expected, NEAR)


def inks(kind: str, seed: int) -> Made:
    pixels = ramp(seed, 4)
    return Made(saved(Image.fromarray(pixels, "CMYK"), kind), of_cmyk(pixels), NEAR)


def two_valued(kind: str, seed: int) -> Made:
    on = ramp(seed, 1)[..., 0] > 100
    return Made(saved(Image.fromarray(on), kind), np.repeat(np.where(on, 255, 0)[..., None], 3, 2))


def painted(kind: str, seed: int) -> Made:
    index = ramp(seed, 1)[..., 0] // 16
    palette = np.random.default_rng(seed).integers(0, 256, (16, 3), dtype=np.uint8)
    picture = Image.fromarray(index, "L").convert("P")
    picture.putdata(index.ravel().tolist())
    picture.putpalette(palette.ravel().tolist())
    return Made(saved(picture, kind), palette[index])


def moving(kind: str, seed: int) -> Made:
    frames = [Image.fromarray(np.full((H, W, 3), 40 * (i + 1) + seed % 40, np.uint8)) for i in range(3)]
    how = {"lossless": True} if kind == "WEBP" else {}
    content = saved(frames[0], kind, save_all=True, append_images=frames[1:], duration=40, **how)
    return Made(content, np.asarray(frames[0]), NEAR)


def turned(kind: str, seed: int) -> Made:
    orientation, pixels = 1 + seed % 8, ramp(seed, 3)
    exif = Image.Exif()
    exif[0x0112] = orientation
    content = saved(Image.fromarray(pixels), kind, exif=exif, **LOSSLESS.get(kind, {}))
    return Made(content, UPRIGHT[orientation](pixels))


MAKERS = [
    *((coloured, kind) for kind in COLOURED),
    *((lossy, kind) for kind in ("JPEG", "WEBP", "AVIF")),
    *((grey, kind) for kind in GREY),
    *((deep, kind) for kind in ("PNG", "TIFF", "PPM")),
    *((clear, kind) for kind in WITH_ALPHA),
    *((grey_and_clear, kind) for kind in ("PNG", "TIFF")),
    (inks, "TIFF"),
    *((two_valued, kind) for kind in ("PNG", "BMP", "TIFF", "PPM", "PCX", "MSP")),
    *((painted, kind) for kind in ("PNG", "GIF", "BMP", "TIFF", "TGA")),
    *((moving, kind) for kind in ("GIF", "PNG", "WEBP", "TIFF")),
    *((turned, kind) for kind in ("PNG", "TIFF", "WEBP")),
]

whole = st.builds(lambda maker, seed: maker[0](maker[1], seed), st.sampled_from(MAKERS), st.integers(0, 511))

# What the fields of headers are made of: lengths, counts and offsets of all widths, and names of chunks.
SHORT, LONG = (0, 1, 0x7FFF, 0xFFFF), (0, 1, 27, 12_000, 65_536, 2**31 - 1, 2**31, 2**32 - 1)
FIELDS = [
    *(struct.pack(order + "H", value) for order in "<>" for value in SHORT),
    *(struct.pack(order + "I", value) for order in "<>" for value in LONG),
    *(b"\0" * 8, b"\xff" * 8, b"IHDR", b"IDAT", b"iCCP", b"zTXt", b"acTL", b"fcTL", b"eXIf", b"Exif\0\0II*\0", b"RIFF"),
    *(
        b"VP8 ",
        b"VP8L",
        b"VP8X",
        b"ALPH",
        b"ANMF",
        b"\xff\xd8",
        b"\xff\xe1",
        b"\xff\xc4",
        b"\xff\xd9",
        b"\x21\xf9",
        b",",
    ),
]


def png_of(width: int, height: int, content: bytes = b"", kind: int = 2, *more: tuple[bytes, bytes]) -> bytes:
    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    header = struct.pack(">IIBBBBB", width, height, 8, kind, 0, 0, 0)
    chunks = [(b"IHDR", header), *more, (b"IDAT", content or zlib.compress(b"\0" * 100)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*each) for each in chunks)


def with_size(content: bytes, place: int, form: str, width: int, height: int) -> bytes:
    """``content`` that says it is of another size."""
    return content[:place] + struct.pack(form, width, height) + content[place + struct.calcsize(form) :]


def icon(inner: bytes) -> bytes:
    """An icon that says it has W x H pixels, around a picture of its own."""
    header = struct.pack("<HHHBBBBHHII", 0, 1, 1, W, H, 0, 0, 1, 32, len(inner), 22)
    return header + inner


PROGRAM = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 100 100\n%%EndComments\n{ } loop\n%%EOF\n"


def iptc(inner: bytes) -> bytes:
    """A file of IPTC that says it has 100 x 100 pixels, around a file of any format, which Pillow opens."""

    def field(record: int, number: int, value: bytes) -> bytes:
        return struct.pack(">BBBH", 0x1C, record, number, len(value)) + value

    size = [field(3, number, struct.pack(">H", 100)) for number in (20, 30)]
    return b"".join([field(3, 60, b"\1\0"), *size, field(3, 120, b"\5"), field(8, 10, inner)])


def bombs() -> dict[str, bytes]:
    """Small files that claim pictures of gigapixels, or hold what a decoder would swell or run, by name."""
    small, side = Image.fromarray(ramp(0, 3)), 60_000
    jpeg, gif = saved(small, "JPEG"), saved(small, "GIF")
    tiff, lossless = saved(small, "TIFF"), saved(small, "WEBP", lossless=True)
    width = struct.pack("<HHI", 256, 4, 1)  # a tag of TIFF, in front of its value
    return {
        "png": png_of(side, side),
        "bmp": with_size(saved(small, "BMP"), 18, "<ii", side, side),
        "gif": with_size(gif, 6, "<HH", side, side),
        "jpeg": with_size(jpeg, jpeg.index(b"\xff\xc0") + 5, ">HH", side, side),
        "ppm": f"P6 {side} {side} 255\n".encode() + b"\0" * 100,
        "tga": with_size(saved(small, "TGA"), 12, "<HH", side, side),
        "tiff": tiff.replace(width + struct.pack("<I", W), width + struct.pack("<I", 2**31 - 1)),
        "jp2": saved(small, "JPEG2000").replace(struct.pack(">II", W, H), struct.pack(">II", side, side)),
        "webp": lossless[:21] + b"\xff\xff\xff\xff" + lossless[25:],
        "xbm": f"#define a_width {side}\n#define a_height {side}\nstatic char a_bits[] = {{0x00}};".encode(),
        "ico": icon(png_of(side, side)),
        "small.ico": icon(saved(small.resize((8, 8)), "PNG")),
        "eps": PROGRAM,
        "iptc": iptc(PROGRAM),
    }
