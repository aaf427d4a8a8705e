"""TIFF images: every bit depth and byte order, and variants that are refused."""

import struct

import numpy as np
import pytest

from gpuconv.images.image_file import read_image
from tests.images.tiff_files import Tag, packed_bits, tiff

Image = pytest.importorskip("PIL.Image")


@pytest.mark.parametrize("order", ["<", ">"], ids=["little-endian", "big-endian"])
@pytest.mark.parametrize("photometric", [0, 1], ids=["white-is-zero", "black-is-zero"])
@pytest.mark.parametrize("bits", [1, 2, 4, 8, 12, 16])
def test_a_gray_tiff_of_every_depth_is_scaled_to_8_bits(tmp_path, bits, photometric, order):
    """The smallest value becomes black and the largest white, or the reverse. The byte order always applies to the
    tags, but to pixels only if they have 16 bits."""
    white = 2**bits - 1
    values = [0, white, white // 2, 1, white - 1]
    data = np.array(values, f"{order}u2").tobytes() if bits == 16 else packed_bits(values, bits)
    path = tiff(tmp_path / "a.tif", data, bits=bits, width=5, photometric=photometric, order=order)
    gray = np.array(values) if photometric else white - np.array(values)
    expected = np.rint(gray * 255 / white)
    assert read_image(path, channels=1).ravel().tolist() == expected.tolist()


def test_a_tiff_variant_that_pillow_cannot_read_is_refused(tmp_path):
    path = tiff(tmp_path / "a.tif", packed_bits([1, 2], 10), bits=10, width=2)
    with pytest.raises(ValueError, match=r"a\.tif as an image: .* TIFF.*, or in a variant that Pillow does not read"):
        read_image(path)


@pytest.mark.parametrize("bits", [8, 16])
def test_signed_values_are_refused(tmp_path, bits):
    path = tiff(tmp_path / "a.tif", bytes(4), bits=bits, width=2, extra={Tag.SAMPLE_FORMAT: 2})
    with pytest.raises(
        ValueError, match=r"a\.tif .* range of its values is unknown .*; accepted are unsigned integers"
    ):
        read_image(path)


@pytest.mark.parametrize(
    ("kind", "expected"),
    [(0, [128, 0, 64]), (1, [255, 255, 64]), (2, [191, 255, 64])],
    ids=["unspecified", "multiplied", "alpha"],
)
def test_the_second_channel_of_a_gray_tiff_is_read_as_its_tag_says(tmp_path, kind, expected):
    """The tag ExtraSamples gives the meaning of this channel. If it is alpha, the image lies on white: a gray of 128
    that is half transparent becomes 64 + 127, or 128 + 127 if it is stored multiplied by its alpha."""
    data = bytes([128, 128, 0, 0, 64, 255])
    extra = {Tag.SAMPLES_PER_PIXEL: 2, Tag.EXTRA_SAMPLES: kind}
    path = tiff(tmp_path / "a.tif", data, bits=8, width=3, extra=extra)
    bits_of_one_channel = struct.pack("<HHII", Tag.BITS_PER_SAMPLE, 4, 1, 8)
    bits_of_both_channels = struct.pack("<HHIHH", Tag.BITS_PER_SAMPLE, 3, 2, 8, 8)
    path.write_bytes(path.read_bytes().replace(bits_of_one_channel, bits_of_both_channels))
    if kind != 2 and int(Image.__version__.partition(".")[0]) < 13:
        with pytest.raises(ValueError, match="in a variant that Pillow does not read"):
            read_image(path, channels=1)
    else:
        assert read_image(path, channels=1).ravel().tolist() == expected
