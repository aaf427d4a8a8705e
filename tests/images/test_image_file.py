"""One image file: its color modes, transparency and orientation, and files that are refused before decoding."""

import os
import socket
import sys

import numpy as np
import pytest

from gpuconv.images import image_file
from gpuconv.images.image_file import Picture, read_image
from tests.images.pixels import picture
from tests.images.tiff_files import Tag, tiff

Image = pytest.importorskip("PIL.Image")


def test_read_image_converts_pictures_to_gray_or_rgb(tmp_path):
    pixels = picture(4, 3, 1)
    gray = pixels[..., 0]
    Image.fromarray(gray).save(tmp_path / "gray.png")
    np.testing.assert_array_equal(read_image(tmp_path / "gray.png"), np.repeat(gray[..., None], 3, axis=2))
    np.testing.assert_array_equal(read_image(tmp_path / "gray.png", channels=1), gray[..., None])
    with_alpha = np.dstack([pixels, np.full((4, 3), 255, np.uint8)])
    Image.fromarray(with_alpha).save(tmp_path / "alpha.png")
    np.testing.assert_array_equal(read_image(tmp_path / "alpha.png"), pixels)


def test_white_shows_through_a_transparent_gray_of_16_bits(tmp_path):
    image = Image.fromarray(np.array([[40000, 257]], np.uint16))
    image.save(tmp_path / "deep.png", transparency=40000)
    assert read_image(tmp_path / "deep.png", channels=1).ravel().tolist() == [255, 1]


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", ["deep.png", "deep.tif", "deep.pgm"])
def test_gray_of_16_bits_is_scaled_to_8(tmp_path, name, channels):
    values = np.array([[0, 128, 129, 257], [32767, 32768, 65406, 65535]], np.uint16)
    Image.fromarray(values).save(tmp_path / name)
    expected = np.rint(values * (255 / 65535)).astype(np.uint8)
    read = read_image(tmp_path / name, channels=channels)
    np.testing.assert_array_equal(read, np.repeat(expected[..., None], channels, axis=2))


@pytest.mark.parametrize(("dtype", "mode"), [(np.int32, "I"), (np.float32, "F")])
def test_values_without_a_known_range_are_refused(tmp_path, dtype, mode):
    Image.fromarray(np.linspace(0, 1, 12).reshape(3, 4).astype(dtype)).save(tmp_path / "a.tif")
    with pytest.raises(
        ValueError, match=rf"a\.tif as .* range of its values is unknown \(mode {mode}\); accepted are unsigned"
    ):
        read_image(tmp_path / "a.tif")


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_white_shows_through_transparent_pixels(tmp_path, mode, channels):
    alpha = np.array([[0, 255], [51, 0]], np.uint8)
    image = Image.new(mode, (2, 2))  # every pixel is black; the pixels differ only in alpha
    image.putalpha(Image.fromarray(alpha))
    image.save(tmp_path / "a.png")
    read = read_image(tmp_path / "a.png", channels=channels)
    np.testing.assert_array_equal(read, np.repeat(255 - alpha[..., None], channels, axis=2))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("mode", ["P", "L", "RGB"])
def test_white_shows_through_a_transparent_color(tmp_path, mode, channels):
    image = Image.fromarray(np.array([[9, 0], [0, 9]], np.uint8)).convert(mode)
    image.save(tmp_path / "a.png", transparency=(9, 9, 9) if mode == "RGB" else 9)
    read = read_image(tmp_path / "a.png", channels=channels)
    np.testing.assert_array_equal(read, np.repeat(np.array([[[255], [0]], [[0], [255]]]), channels, axis=2))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_an_opaque_image_is_read_as_if_it_had_no_transparency(tmp_path, mode, channels):
    pixels = np.random.default_rng(5).integers(0, 256, (64, 64, 3)).astype(np.uint8)
    opaque = Image.fromarray(pixels)
    image = opaque.convert(mode)
    plain = image.convert({1: "L", 3: "RGB"}[channels])
    image.save(tmp_path / "a.png", **({"transparency": b"\xff" * 256} if mode == "P" else {}))
    read = read_image(tmp_path / "a.png", channels=channels)
    np.testing.assert_array_equal(read, np.asarray(plain).reshape(64, 64, channels))


def test_read_image_rotates_pictures_upright(tmp_path):
    pixels = picture(4, 3, 1)
    exif = Image.Exif()
    exif[0x0112] = 6  # orientation: shown after a quarter turn clockwise
    Image.fromarray(pixels).save(tmp_path / "rotated.png", exif=exif)
    np.testing.assert_array_equal(read_image(tmp_path / "rotated.png"), np.rot90(pixels, -1))


def test_bad_arguments_and_missing_files_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError):
        read_image(tmp_path / "none.png")
    with pytest.raises(ValueError, match="channels must be 1"):
        read_image(tmp_path / "none.png", channels=4)
    Image.fromarray(picture(2, 2, 0)).save(tmp_path / "a.png")
    with pytest.raises(ValueError, match="size"):
        read_image(tmp_path / "a.png", size=(0, 3))
    with pytest.raises(ValueError, match=r"size must be at most 67,108,864 pixels, received 8193x8192"):
        read_image(tmp_path / "a.png", size=(8193, 8192))


def test_colors_that_cannot_be_converted_are_refused(tmp_path):
    Image.new("LAB", (4, 4)).save(tmp_path / "a.tif")
    with pytest.raises(ValueError, match=r"cannot read .*a\.tif as an image: conversion"):
        read_image(tmp_path / "a.tif", channels=1)


def test_the_format_is_determined_by_the_content_not_the_name(tmp_path):
    pixels = picture(4, 3, 1)
    Image.fromarray(pixels).save(tmp_path / "a.jpg", format="PNG")
    np.testing.assert_array_equal(read_image(tmp_path / "a.jpg"), pixels)


@pytest.mark.parametrize("format", ["EPS", "ICO", "PCX", "TGA", "PDF", "SGI"])
def test_other_formats_are_never_decoded(tmp_path, format, monkeypatch):
    from PIL import EpsImagePlugin

    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *_: pytest.fail("Ghostscript must not be started"))
    Image.fromarray(picture(32, 32, 1)).save(tmp_path / "a.png", format=format)
    with pytest.raises(ValueError, match=r"a\.png as an image: its content is none of .*, PNG, "):
        read_image(tmp_path / "a.png")


def test_every_listed_format_that_pillow_writes_is_read(tmp_path):
    pixels = np.full((8, 8, 3), 200, np.uint8)
    for name in set(image_file.readable_formats()) & set(Image.SAVE):
        for suffix in image_file.FORMATS[name]:
            path = tmp_path / f"a{suffix}"
            Image.fromarray(pixels).save(path, format=name)
            assert np.abs(read_image(path).astype(int) - (255 if suffix == ".pbm" else 200)).max() < 60


def test_cmyk_palette_and_bilevel_images_are_read(tmp_path):
    red = Image.new("RGB", (4, 4), (255, 0, 0))
    for mode, suffix in (("CMYK", "jpg"), ("CMYK", "tif"), ("P", "gif"), ("P", "png"), ("P", "bmp")):
        red.convert(mode).save(tmp_path / f"a.{suffix}")
        read = read_image(tmp_path / f"a.{suffix}")
        assert np.abs(read.astype(int) - [255, 0, 0]).max() < 4, (mode, suffix)
        assert Picture.open(tmp_path / f"a.{suffix}").mode == mode
    Image.new("1", (4, 4), 1).save(tmp_path / "a.png")
    assert (read_image(tmp_path / "a.png") == 255).all()


@pytest.mark.parametrize("suffix", ["gif", "png", "webp", "tif", "avif"])
def test_the_first_picture_of_a_multi_page_file_is_read(tmp_path, suffix):
    if f".{suffix}" not in image_file.readable_suffixes():
        pytest.skip(f"this Pillow reads no {suffix}")
    first, second = Image.new("RGB", (16, 16), "white"), Image.new("RGB", (16, 16), "black")
    first.save(tmp_path / f"a.{suffix}", save_all=True, append_images=[second])
    assert read_image(tmp_path / f"a.{suffix}").min() > 240


@pytest.mark.parametrize("suffix", ["jpg", "png", "tif", "webp"])
def test_every_exif_orientation_is_applied(tmp_path, suffix):
    upright = {
        1: np.asarray,
        2: np.fliplr,
        3: lambda a: np.rot90(a, 2),
        4: np.flipud,
        5: lambda a: a.transpose(1, 0, 2),
        6: lambda a: np.rot90(a, -1),
        7: lambda a: np.rot90(a, 2).transpose(1, 0, 2),
        8: np.rot90,
    }
    pixels = np.zeros((16, 32, 3), np.uint8)
    pixels[:8, :8], pixels[8:, 24:] = 255, 128
    for orientation, rotate in upright.items():
        exif = Image.Exif()
        exif[0x0112] = orientation
        options = {"quality": 100, "lossless": True} if suffix == "webp" else {}
        Image.fromarray(pixels).save(tmp_path / f"a.{suffix}", exif=exif, **options)
        read = read_image(tmp_path / f"a.{suffix}")
        assert np.abs(read.astype(int) - rotate(pixels)).max() < 20, orientation


def test_anything_but_a_regular_file_is_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "fifo.png")
    (tmp_path / "folder.png").mkdir()
    with socket.socket(socket.AF_UNIX) as server:
        before = os.getcwd()
        os.chdir(tmp_path)  # the path of a socket may have at most 107 bytes
        try:
            server.bind("socket.png")
        finally:
            os.chdir(before)
        for path in (*tmp_path.iterdir(), "/dev/zero"):
            with pytest.raises(OSError, match="is not a regular file"):
                read_image(path)


def test_broken_links_are_reported(tmp_path):
    (tmp_path / "gone.png").symlink_to("nothing.png")
    (tmp_path / "loop.png").symlink_to("loop.png")
    for name, cause in (("gone.png", "No such file"), ("loop.png", "symbolic links")):
        with pytest.raises(OSError, match=cause):
            read_image(tmp_path / name)


def test_size_limits_apply_before_decoding(tmp_path, monkeypatch):
    """Pictures, TIFF tiles and files have limits; a picture of exactly the largest size is read."""
    monkeypatch.setattr(image_file, "MAX_PIXELS", 64)
    monkeypatch.setattr(image_file, "_flat", lambda _: pytest.fail("the picture must not be decoded"))
    Image.new("L", (13, 5)).save(tmp_path / "a.png")
    with pytest.raises(ValueError, match=r"a\.png as an image: it has 65 pixels \(5x13\), at most 64 are read"):
        read_image(tmp_path / "a.png")
    tile = {Tag.TILE_WIDTH: 16, Tag.TILE_HEIGHT: 16, Tag.TILE_OFFSETS: 8, Tag.TILE_BYTE_COUNTS: 256}
    path = tiff(tmp_path / "tile.tif", bytes(1), bits=8, width=1, extra=tile)
    with pytest.raises(ValueError, match=r"tile\.tif as an image: it has 256 pixels"):
        read_image(path)
    monkeypatch.undo()
    monkeypatch.setattr(image_file, "MAX_PIXELS", 64)
    Image.new("L", (8, 8)).save(tmp_path / "a.png")
    assert read_image(tmp_path / "a.png").shape == (8, 8, 3)
    monkeypatch.setattr(image_file, "MAX_BYTES", 10)
    with pytest.raises(ValueError, match=r"a\.png: it has \d+ bytes, at most 10"):
        read_image(tmp_path / "a.png")


def test_a_picture_that_pillow_refuses_for_its_size_is_refused_with_our_message(tmp_path, monkeypatch):
    from PIL import Image

    Image.new("L", (100, 100)).save(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(ValueError, match=r"a\.png as an image: it has far more than 67,108,864 pixels"):
        read_image(tmp_path / "a.png")


def test_without_pillow_the_error_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(ImportError, match=r"image files needs Pillow: pip install \"gpuconv\[image\]"):
        read_image(tmp_path / "a.png")


def test_an_error_without_a_message_is_named_by_its_type():
    assert (image_file._cause(ValueError()), image_file._cause(ValueError("why"))) == ("ValueError", "why")
