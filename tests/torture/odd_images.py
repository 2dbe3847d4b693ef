"""Images that are broken, odd, or no images: makers by what must become of the file.

A maker gets random numbers and a path, and leaves something there.
"""

import io
import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

Maker = Callable[[np.random.Generator, Path], object]
KINDS = {"JPEG": ".jpg", "PNG": ".png", "BMP": ".bmp", "GIF": ".gif", "WEBP": ".webp",
         "TIFF": ".tif", "PPM": ".ppm"}  # fmt: skip


def picture(random: np.random.Generator, mode: str = "RGB") -> Image.Image:
    """A smooth picture of a few dozen pixels."""
    size = tuple(int(n) for n in random.integers(8, 80, 2))
    coarse = Image.fromarray(random.integers(0, 256, (4, 5, 3), dtype=np.uint8))
    return coarse.resize(size, Image.Resampling.BICUBIC).convert(mode)


def encoded(image: Image.Image, kind: str, **options) -> bytes:
    """An image's file."""
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def any_kind(random: np.random.Generator) -> bytes:
    """A sound file of any format."""
    return encoded(picture(random), list(KINDS)[random.integers(len(KINDS))])


def in_mode(kind: str, mode: str, **options) -> Maker:
    """A maker of sound images in one of Pillow's modes."""
    return lambda random, path: path.write_bytes(encoded(picture(random, mode), kind, **options))


def animated(kind: str) -> Maker:
    """A maker of several pictures in one file; the first one counts."""

    def make(random: np.random.Generator, path: Path) -> None:
        first, *others = [picture(random).resize((30, 20)) for _ in range(random.integers(2, 6))]
        path.write_bytes(encoded(first, kind, save_all=True, append_images=others))

    return make


def turned(random: np.random.Generator, path: Path) -> None:
    """EXIF orientation, which is ignored."""
    exif = Image.Exif()
    exif[0x0112] = int(random.integers(0, 12))
    path.write_bytes(encoded(picture(random), "JPEG", exif=exif))


def wide(random: np.random.Generator, path: Path) -> None:
    """16 bits a pixel."""
    values = random.integers(0, 65536, (9, 12), dtype=np.uint16)
    path.write_bytes(encoded(Image.fromarray(values), random.choice(["PNG", "TIFF"])))


def floats(random: np.random.Generator, path: Path) -> None:
    """Gray levels as floats, some of them none."""
    values = random.choice([0.0, 0.5, 1.0, 300.0, np.nan, np.inf, -np.inf, 1e38], (9, 12))
    path.write_bytes(encoded(Image.fromarray(values.astype(np.float32)), "TIFF"))


def plain_numbers(random: np.random.Generator, path: Path) -> None:
    """PPM of several kinds, as text or with more than 8 bits."""
    numbers = b" ".join(b"%d" % n for n in random.integers(0, 256, 27))
    path.write_bytes([
        b"P3\n# by hand\n3 3\n255\n" + numbers, b"P6 3 3 65535\n" + random.bytes(54),
        b"P5 3 3 255\n" + random.bytes(9), b"P4 8 3\n" + random.bytes(3), b"P1 3 1\n1 0 1\n",
    ][random.integers(5)])  # fmt: skip


def more_behind(random: np.random.Generator, path: Path) -> None:
    """Bytes behind the end of the image."""
    path.write_bytes(encoded(picture(random), "JPEG") + random.bytes(100))


def large_profile(random: np.random.Generator, path: Path) -> None:
    """A color profile and comments that are larger than the image."""
    options = {"icc_profile": random.bytes(200_000), "comment": b"\x1b[2J" * 1000}
    path.write_bytes(encoded(picture(random), "JPEG", **options))


def odd_transparency(random: np.random.Generator, path: Path) -> None:
    """A palette with transparency, of one color or of several."""
    value = [0, bytes(random.integers(0, 256, 9, dtype=np.uint8))][random.integers(2)]
    image = picture(random).convert("P", palette=Image.Palette.ADAPTIVE, colors=16)
    path.write_bytes(encoded(image, "PNG", transparency=value))


def compressed_tiff(random: np.random.Generator, path: Path) -> None:
    """TIFF by any of its compressions."""
    names = ["tiff_lzw", "tiff_deflate", "packbits", "jpeg", "tiff_adobe_deflate"]
    path.write_bytes(encoded(picture(random), "TIFF", compression=random.choice(names)))


SOUND: dict[str, Maker] = {
    "EXIF orientation": turned,
    "progressive": in_mode("JPEG", "RGB", progressive=True),
    "4:4:4": in_mode("JPEG", "RGB", subsampling=0),
    "gray JPEG": in_mode("JPEG", "L"),
    "CMYK JPEG": in_mode("JPEG", "CMYK"),
    "CMYK TIFF": in_mode("TIFF", "CMYK"),
    "animated GIF": animated("GIF"),
    "animated WebP": animated("WEBP"),
    "animated PNG": animated("PNG"),
    "several pages": animated("TIFF"),
    "palette": in_mode("PNG", "P"),
    "palette with transparency": odd_transparency,
    "alpha": in_mode("PNG", "RGBA"),
    "gray with alpha": in_mode("PNG", "LA"),
    "one bit": in_mode("PNG", "1"),
    "one bit BMP": in_mode("BMP", "1"),
    "one bit TIFF": in_mode("TIFF", "1", compression="group4"),
    "lossless WebP": in_mode("WEBP", "RGBA", lossless=True),
    "YCbCr": in_mode("TIFF", "YCbCr"),
    "16 bits": wide,
    "floats": floats,
    "PPM": plain_numbers,
    "bytes behind the end": more_behind,
    "a large profile": large_profile,
    "compressed TIFF": compressed_tiff,
}


def cut(random: np.random.Generator, path: Path) -> None:
    """Half a file, or less."""
    data = encoded(picture(random), random.choice(["JPEG", "PNG", "BMP", "WEBP"]))
    path.write_bytes(data[: int(random.integers(len(data) // 2))])


def not_one(random: np.random.Generator, path: Path) -> None:
    """Something else under an image's name."""
    path.write_bytes([
        b"", b"hello", b"<html></html>", b"%PDF-1.4\n", b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(%pipe%touch /tmp/ran) (w) file\n",
        b"\0\0\0\x0cjP  \r\n\x87\n", b"\xff\xd8", b"\xff\xd8\xff\xe0", b"\x89PNG\r\n\x1a\n",
        b"GIF89a",
        b"RIFF\xff\xff\xff\xffWEBPVP8 ", b"II*\0\xff\xff\xff\xff", b"BM" + b"\xff" * 60,
        b"PK\3\4" + bytes(99), random.bytes(3000),
    ][random.integers(16)])  # fmt: skip


def png(width: int, height: int, *chunks: tuple[bytes, bytes]) -> bytes:
    """A PNG of some size and some chunks, checksums right."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    parts = [(b"IHDR", header), *chunks, (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
        for name, body in parts
    )


def huge_header(random: np.random.Generator, path: Path) -> None:
    """A few bytes that say they are a hundred thousand pixels wide, or a stripe."""
    width, height = [(60_000, 60_000), (65_000, 3), (2, 60_000), (40_000, 5_000)][
        random.integers(4)
    ]
    jpeg = bytearray(encoded(picture(random), "JPEG"))
    at = jpeg.index(b"\xff\xc0")
    jpeg[at + 5 : at + 9] = struct.pack(">HH", height, width)
    bmp = bytearray(encoded(picture(random), "BMP"))
    struct.pack_into("<ii", bmp, 18, width, height)
    gif = bytearray(encoded(picture(random), "GIF"))
    struct.pack_into("<HH", gif, 6, width & 0xFFFF, height)
    body = (b"IDAT", zlib.compress(bytes(1000)))
    data = [png(width, height, body), bytes(jpeg), bytes(bmp), bytes(gif),
            b"P6 %d %d 255\n" % (width, height)][random.integers(5)]  # fmt: skip
    path.write_bytes(data)


def large_header(random: np.random.Generator, path: Path) -> None:
    """A small file that says as many pixels as are just taken."""
    side = int(random.integers(9_000, 13_300))
    jpeg = bytearray(encoded(picture(random), "JPEG", progressive=bool(random.integers(2))))
    at = jpeg.index(b"\xff\xc0" if b"\xff\xc0" in jpeg else b"\xff\xc2")
    jpeg[at + 5 : at + 9] = struct.pack(">HH", side, side)
    body = (b"IDAT", zlib.compress(bytes(1000)))
    path.write_bytes(bytes(jpeg) if random.random() < 0.5 else png(side, side, body))


def text_bomb(random: np.random.Generator, path: Path) -> None:
    """Compressed text or profile in a PNG that unpacks to much more."""
    packed = zlib.compress(bytes(50_000_000), 9)
    chunk = [(b"zTXt", b"a\0\0" + packed), (b"iCCP", b"a\0\0" + packed)][random.integers(2)]
    body = (b"IDAT", zlib.compress(bytes(10_000)))
    path.write_bytes(png(9, 9, *[chunk] * int(random.integers(1, 4)), body))


def twelve_bits(random: np.random.Generator, path: Path) -> None:
    """A JPEG that says 12 bits, or a process that few decoders know."""
    jpeg = bytearray(encoded(picture(random), "JPEG"))
    at = jpeg.index(b"\xff\xc0")
    if random.random() < 0.5:
        jpeg[at + 4] = 12
    else:
        jpeg[at + 1] = int(random.choice([0xC3, 0xC5, 0xC7, 0xC9, 0xCB, 0xCF]))
    path.write_bytes(jpeg)


def link_to(*targets: str) -> Maker:
    """A maker of links."""
    return lambda random, path: path.symlink_to(random.choice([*targets]) or path.name)


BROKEN: dict[str, Maker] = {
    "truncated": cut,
    "no image": not_one,
    "huge header": huge_header,
    "12 bits": twelve_bits,
    "dangling link": link_to("nothing"),
    "link in a circle": link_to(""),
    "link to a device": link_to("/dev/zero", "/dev/full", "/dev/stdin", "/dev/tty"),
    "FIFO": lambda random, path: os.mkfifo(path),
}


def flipped(random: np.random.Generator, path: Path) -> None:
    """A few bytes changed anywhere."""
    data = bytearray(any_kind(random))
    for _ in range(random.integers(1, 9)):
        data[random.integers(len(data))] = random.integers(256)
    path.write_bytes(data)


def spliced(random: np.random.Generator, path: Path) -> None:
    """The start of one image and the end of another."""
    one, other = any_kind(random), any_kind(random)
    at = int(random.integers(min(len(one), len(other))))
    path.write_bytes(one[:at] + other[at:])


def lying_tiff(random: np.random.Generator, path: Path) -> None:
    """A TIFF whose directory's numbers are anything, pointing back at itself among them."""
    data = bytearray(encoded(picture(random), "TIFF"))
    start = struct.unpack_from("<I", data, 4)[0]
    for _ in range(random.integers(1, 6)):
        at = int(random.integers(start, len(data) - 4)) if len(data) - 4 > start else 4
        struct.pack_into("<I", data, at, int(random.choice([0, 8, start, 0xFFFFFFFF, 0x7FFFFFFF])))
    path.write_bytes(data)


def unreadable(random: np.random.Generator, path: Path) -> None:
    """No permission, which doesn't stop root."""
    path.write_bytes(any_kind(random))
    path.chmod(0)


EITHER: dict[str, Maker] = {
    "a large header": large_header,
    "Lab": in_mode("TIFF", "LAB"),  # not as gray
    "bytes changed": flipped,
    "spliced": spliced,
    "a TIFF that lies": lying_tiff,
    "a text that unpacks": text_bomb,
    "no permission": unreadable,
}
# Passed over when a folder is listed.
IGNORED: dict[str, Maker] = {
    "a folder by an image's name": lambda random, path: path.mkdir(),
    "a hidden file": lambda random, path: (path.parent / f".{path.name}").write_bytes(b"x"),
    "a folder that is a link back": lambda random, path: (path.parent / "up").symlink_to("."),
}
