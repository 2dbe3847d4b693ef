import io
import os
import struct
import zlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from data_helpers import SHARED, make_photo
from PIL import Image

from alexnet.data import images
from alexnet.data.images import BadImage, decode


def encode(image, kind, **options):
    if isinstance(image, np.ndarray):
        image = Image.fromarray(image)
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def pillow_rgb(data):
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


# --- JPEG --------------------------------------------------------------------------------------


@pytest.mark.parametrize("subsampling", [0, 1, 2])
def test_jpeg_equals_pillow(photo, subsampling):
    data = encode(photo, "JPEG", quality=90, subsampling=subsampling)
    assert images._decode_jpeg(data, 3) is not None  # by simplejpeg, not through the fallback
    assert np.abs(decode(data, 3).astype(int) - pillow_rgb(data)).max() <= 1


def test_photographs_equal_pillow():
    folder = SHARED / "data" / "imagenet_sample"
    if not folder.is_dir():
        pytest.skip("needs shared/data/imagenet_sample")
    for path in sorted(folder.iterdir())[:10]:
        difference = decode(path, 3).astype(int) - pillow_rgb(path.read_bytes())
        assert np.abs(difference).max() <= 1, path.name


def test_gray_jpeg_and_gray_from_color(photo):
    gray = encode(Image.fromarray(photo).convert("L"), "JPEG")
    assert decode(gray, 3).shape == (60, 80, 3)
    np.testing.assert_array_equal(decode(gray, 3)[:, :, :1], decode(gray, 1))
    color = encode(photo, "JPEG", quality=95)
    expected = np.asarray(Image.open(io.BytesIO(color)).convert("L"))
    assert np.abs(decode(color, 1)[:, :, 0].astype(int) - expected).max() <= 2


def test_cmyk_jpeg_equals_pillow(photo):
    data = encode(Image.fromarray(photo).convert("CMYK"), "JPEG", quality=95)
    assert images._decode_jpeg(data, 3) is None
    np.testing.assert_array_equal(decode(data, 3), pillow_rgb(data))
    assert np.abs(decode(data, 3).astype(int) - photo).mean() < 5


def test_progressive_jpeg_with_bytes_after_its_end(photo):
    data = encode(photo, "JPEG", progressive=True) + b"\0" * 100
    np.testing.assert_array_equal(decode(data, 3), pillow_rgb(data))


# --- other formats and modes -------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "PPM"])
def test_lossless_formats(photo, kind):
    np.testing.assert_array_equal(decode(encode(photo, kind), 3), photo)


@pytest.mark.parametrize("kind", ["WEBP", "GIF"])
def test_lossy_formats(photo, kind):
    assert np.abs(decode(encode(photo, kind), 3).astype(int) - photo).mean() < 12


def test_png_named_jpeg(photo, tmp_path):
    path = tmp_path / "n02105855_2933.JPEG"
    path.write_bytes(encode(photo, "PNG"))
    np.testing.assert_array_equal(decode(path, 3), photo)


def test_alpha_is_dropped(photo):
    alpha = np.zeros((60, 80, 1), np.uint8)
    rgba = np.concatenate([photo, alpha], axis=2)
    np.testing.assert_array_equal(decode(encode(rgba, "PNG"), 3), photo)
    gray = photo[:, :, :1]
    la = encode(Image.fromarray(np.concatenate([gray, alpha], axis=2), "LA"), "PNG")
    np.testing.assert_array_equal(decode(la, 3), np.repeat(gray, 3, axis=2))
    np.testing.assert_array_equal(decode(la, 1), gray)


@pytest.mark.parametrize("transparency", [None, 0, bytes([0, 128, 255])])
@pytest.mark.filterwarnings("error")
def test_palette(transparency):
    image = Image.new("P", (3, 1))
    image.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90])
    image.putdata([0, 1, 2])
    options = {} if transparency is None else {"transparency": transparency}
    pixels = decode(encode(image, "PNG", **options), 3)
    np.testing.assert_array_equal(pixels, [[[10, 20, 30], [40, 50, 60], [70, 80, 90]]])


def test_one_bit():
    image = Image.fromarray(np.array([[True, False]]))
    np.testing.assert_array_equal(decode(encode(image, "PNG"), 1), [[[255], [0]]])
    np.testing.assert_array_equal(decode(encode(image, "PNG"), 3), [[[255] * 3, [0] * 3]])


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_16_bit_gray_is_scaled_not_clipped(kind):
    wide = np.array([[0, 257, 300, 32896, 65535]], np.uint16)
    pixels = decode(encode(wide, kind), 1)[:, :, 0]
    np.testing.assert_array_equal(pixels, [[0, 1, 1, 128, 255]])
    assert decode(encode(wide, kind), 3).shape == (1, 5, 3)


def test_32_bit_and_float_gray():
    integers = encode(np.array([[0, 65535]], np.int32), "TIFF")
    np.testing.assert_array_equal(decode(integers, 1)[:, :, 0], [[0, 255]])
    floats = encode(np.array([[0, 0.5, 1]], np.float32), "TIFF")
    np.testing.assert_array_equal(decode(floats, 1)[:, :, 0], [[0, 128, 255]])
    levels = encode(np.array([[np.nan, 100, 300]], np.float32), "TIFF")
    np.testing.assert_array_equal(decode(levels, 1)[:, :, 0], [[0, 100, 255]])


# --- arrays ------------------------------------------------------------------------------------


def test_arrays(photo):
    gray = photo[:, :, 0]
    np.testing.assert_array_equal(decode(gray, 1)[:, :, 0], gray)
    np.testing.assert_array_equal(decode(gray, 3), np.repeat(gray[:, :, None], 3, axis=2))
    np.testing.assert_array_equal(decode(photo, 3), photo)
    expected = np.asarray(Image.fromarray(photo).convert("L"))
    np.testing.assert_array_equal(decode(photo, 1)[:, :, 0], expected)


# --- what can't be read ------------------------------------------------------------------------


def test_arrays_with_the_channels_first_are_a_sentence(photo):
    with pytest.raises(BadImage, match="give H x W x C, of at most four channels"):
        decode(np.zeros((3, 50, 60), np.uint8), 3)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "BMP"])
@pytest.mark.parametrize("share", [0.02, 0.5, 0.95])
def test_truncated(photo, kind, share):
    data = encode(photo, kind)
    with pytest.raises(BadImage, match=r"^\w.*[^.]$"):
        decode(data[: int(len(data) * share)], 3)


def test_a_decoders_message_is_cut(photo, monkeypatch):
    def fail(*_):
        raise SyntaxError("of the file's " * 500)

    monkeypatch.setattr(images, "_check_size", fail)
    with pytest.raises(BadImage) as caught:
        decode(encode(photo, "PNG"), 3)
    assert len(str(caught.value)) < 250


def test_jpeg_without_its_last_byte(photo):
    with pytest.raises(BadImage, match="truncated"):
        decode(encode(photo, "JPEG")[:-1], 3)


@pytest.mark.parametrize("data", [b"", b"\xff\xd8", b"hello", b"\xff\xd8" + b"\0" * 5000])
def test_not_an_image(data):
    with pytest.raises(BadImage):
        decode(data, 3)


def test_formats_that_run_programs_are_refused():
    with pytest.raises(BadImage, match="not one of JPEG, PNG"):
        decode(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n", 3)


def huge_png(width, height):
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(b"\0" * 100)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
        for name, body in chunks
    )


def huge_jpeg(photo, height, width):
    data = bytearray(encode(photo, "JPEG"))
    start = data.index(b"\xff\xc0")
    data[start + 5 : start + 9] = struct.pack(">HH", height, width)
    return bytes(data)


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_huge_header_is_refused_before_decoding(photo, monkeypatch):
    with pytest.raises(BadImage):
        decode(huge_png(40_000, 40_000), 3)
    with pytest.raises(BadImage, match="65000 x 65000"):
        decode(huge_jpeg(photo, 65_000, 65_000), 3)
    with pytest.raises(BadImage, match="10000 x 3"):  # resizing the short side would explode
        decode(huge_png(10_000, 3), 3)
    monkeypatch.setattr(images, "MAX_PIXELS", photo.shape[0] * photo.shape[1] - 1)
    with pytest.raises(BadImage, match="80 x 60"):
        decode(encode(photo, "PNG"), 3)


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_a_small_file_that_says_it_is_huge_takes_no_memory(photo, monkeypatch):
    """Of a progressive JPEG of 1,493 bytes the decoder would make 1.6 GB of pixels."""
    monkeypatch.setattr("simplejpeg.decode_jpeg", None)
    for data in (huge_jpeg(photo, 13_000, 13_000), huge_png(13_000, 13_000)):
        with pytest.raises(BadImage, match=f"13000 pixels, but it has only {len(data):,} bytes"):
            decode(data, 3)


def test_images_of_one_color_are_not_taken_for_bombs():
    for kind, options in (("JPEG", {}), ("JPEG", {"progressive": True, "optimize": True}),
                          ("JPEG", {"quality": 1, "subsampling": 2}), ("PNG", {})):  # fmt: skip
        data = encode(Image.new("RGB", (5000, 5000), "white"), kind, **options)
        assert decode(data, 3).shape == (5000, 5000, 3)


@pytest.mark.parametrize(("kind", "channels"), [("JPEG", 3), ("JPEG", 1), ("PNG", 3), ("PNG", 1)])
def test_very_large_images_are_halved_one_at_a_time(monkeypatch, kind, channels):
    photo = make_photo(600, 800)
    monkeypatch.setattr(images, "LARGE", 600 * 800 - 1)
    data = encode(photo, kind)
    half = decode(data, channels)
    assert half.shape == (300, 400, channels)
    own = Image.fromarray(photo) if channels == 3 else Image.fromarray(photo).convert("L")
    expected = np.asarray(own.reduce(2), float).reshape(half.shape)
    assert np.abs(half - expected).mean() < 3
    with images._one_large, ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(decode, data, channels)
        small = encode(photo[:, :-1], kind)  # is not waited for, and not halved
        assert decode(small, channels).shape == (600, 799, channels)
        assert not waiting.done()
        images._one_large.release()
        waiting.result(60)
        images._one_large.acquire()


def test_files_that_cannot_be_read(tmp_path, monkeypatch):
    with pytest.raises(BadImage, match="No such file"):
        decode(tmp_path / "gone.png", 3)
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(BadImage, match="not a regular file"):
        decode(tmp_path / "pipe.png", 3)
    path = tmp_path / "large.png"
    path.write_bytes(encode(make_photo(), "PNG"))
    monkeypatch.setattr(images, "MAX_BYTES", 10)
    with pytest.raises(BadImage, match="MiB"):
        decode(path, 3)
