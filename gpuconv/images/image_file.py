"""Reads one image file as an array: formats, size limits, and conversion to 8-bit gray or color."""

from __future__ import annotations

import dataclasses
import os
import warnings
from types import ModuleType
from typing import TYPE_CHECKING, BinaryIO

import numpy as np
from numpy.typing import NDArray

from gpuconv.arguments import integer, pair
from gpuconv.system import files

if TYPE_CHECKING:
    from PIL.Image import Image


FORMATS = {
    "AVIF": (".avif",),
    "BMP": (".bmp",),
    "GIF": (".gif",),
    "HEIF": (".heic", ".heif"),
    "JPEG": (".jfif", ".jpe", ".jpeg", ".jpg"),
    "PNG": (".png",),
    "PPM": (".pbm", ".pgm", ".ppm"),
    "TIFF": (".tif", ".tiff"),
    "WEBP": (".webp",),
}

MAX_PIXELS = 1 << 26  # 67 million pixels: reading one image takes at most about 1 GB of memory
MAX_BYTES = 1 << 30  # of a file

_MODES = {1: "L", 3: "RGB"}
_BITS_PER_SAMPLE, _PHOTOMETRIC, _TILE_WIDTH, _TILE_LENGTH, _SAMPLE_FORMAT = 258, 262, 322, 323, 339  # TIFF tags
_MIN_IS_WHITE, _UNSIGNED = 0, 1  # values of the tags for photometric interpretation and sample format


def readable_formats() -> tuple[str, ...]:
    """The formats of `FORMATS` that this Pillow can read: "AVIF" and "WEBP" depend on its build, "HEIF" on a plugin."""
    Image = _pillow()
    from PIL import features

    Image.init()
    built = {"AVIF": "avif", "WEBP": "webp"}
    return tuple(name for name in FORMATS if name in Image.OPEN and (name not in built or features.check(built[name])))


def readable_suffixes() -> tuple[str, ...]:
    """The file name suffixes of `readable_formats()`, sorted."""
    return tuple(sorted(suffix for name in readable_formats() for suffix in FORMATS[name]))


def read_image(
    path: str | os.PathLike[str], *, size: tuple[int, int] | None = None, channels: int = 3
) -> NDArray[np.uint8]:
    """One image file as uint8 (H, W, channels), upright, resized to `size` = (H, W) with antialiasing if given.

    The content determines the format, one of `readable_formats()`; the first frame of an animation is read. Transparent
    pixels become white. Gray with 12 and 16 bits is scaled down to 8, so that white stays white.

    Raises:
        OSError: The file is missing, cannot be opened, or is not a regular file (for example a FIFO or a folder).
        ValueError: The file is not an image, is larger than MAX_PIXELS or MAX_BYTES, or has values of unknown range
            (signed integers, 32-bit integers, floats); the message names the file. Or `channels` is neither 1 nor 3, or
            `size` is not accepted.
        ImportError: Pillow is not installed.
    """
    if integer("channels", channels, 1) not in _MODES:
        raise ValueError(f"channels must be 1 (gray) or 3 (color), received {channels}")
    if size is not None:
        height, width = size = pair("size", size, 1)
        if height * width > MAX_PIXELS:
            raise ValueError(f"size must be at most {MAX_PIXELS:,} pixels, received {height}x{width}")
    return Picture.open(path).array(size=size, channels=channels)


@dataclasses.dataclass(frozen=True)
class Picture:
    """A decoded image file. path: for messages. image: upright and opaque. mode: the file's Pillow mode: "L" is gray,
    "RGBA" is color with transparency, and so on."""

    path: str
    image: Image
    mode: str

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> Picture:
        """The image in a file. Raises as `read_image` does."""
        _pillow()  # a missing Pillow is reported before other errors
        with _file_to_read(path) as file:
            return cls.decode(file, os.fspath(path))

    @classmethod
    def decode(cls, file: BinaryIO, name: str) -> Picture:
        """The image in an open file. name: for messages. Raises ValueError as `read_image` does."""
        Image = _pillow()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow warns about damaged headers that do not matter
            try:
                image = Image.open(file, formats=readable_formats())
                _check_size(image)
                return cls(name, _flat(image), image.mode)
            except Exception as error:  # Pillow's decoders raise many types of errors on bad bytes
                raise ValueError(f"cannot read {name} as an image: {_cause(error)}") from error

    def array(self, *, size: tuple[int, int] | None = None, channels: int = 3) -> NDArray[np.uint8]:
        """uint8 (H, W, channels), resized to `size` = (H, W) with antialiasing if given."""
        mode = _MODES[channels]
        try:
            image = self.image if self.image.mode == mode else self.image.convert(mode)
        except ValueError as error:  # a mode that Pillow cannot convert, such as LAB to gray
            raise ValueError(f"cannot read {self.path} as an image: {error}") from error
        if size is not None:
            height, width = pair("size", size, 1)
            image = image.resize((width, height), _pillow().Resampling.BILINEAR)
        return np.array(image).reshape(image.height, image.width, channels)


def _pillow() -> ModuleType:
    """Pillow's module Image. Raises ImportError that names the extra if Pillow is not installed."""
    try:
        from PIL import Image, TiffImagePlugin
    except ImportError as error:
        raise ImportError('reading image files needs Pillow: pip install "gpuconv[image]"') from error
    # Pillow reads 12-bit TIFF files only in one byte order and photometric interpretation, and 16-bit files with white
    # as zero only in one byte order. These entries add the others.
    for order, deep in ((TiffImagePlugin.II, "I;16"), (TiffImagePlugin.MM, "I;16B")):
        for photometric in (0, 1):
            for bits, modes in ((12, ("I;16", "I;12")), (16, (deep, deep))):
                TiffImagePlugin.OPEN_INFO.setdefault((order, photometric, (1,), 1, (bits,), ()), modes)
    return Image


def _file_to_read(path: str | os.PathLike[str]) -> BinaryIO:
    if (size := os.stat(path).st_size) > MAX_BYTES:
        raise ValueError(f"cannot read {os.fspath(path)}: it has {size:,} bytes, at most {MAX_BYTES:,} are read")
    return files.open_regular(path)


def _check_size(image: Image) -> None:
    width, height = image.size
    tags = getattr(image, "tag_v2", {})  # libtiff decodes a whole tile, even if the image covers little of it
    pixels = max(width * height, tags.get(_TILE_WIDTH, 0) * tags.get(_TILE_LENGTH, 0))
    if pixels > MAX_PIXELS:
        raise ValueError(f"it has {pixels:,} pixels ({height}x{width}), at most {MAX_PIXELS:,} are read")


def _flat(image: Image) -> Image:
    """The image upright, with 8 bits per value and without transparency."""
    from PIL import Image, ImageOps

    # Pillow reads 16-bit gray from PGM files as mode "I"; older versions do so for PNG files too.
    deep = image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM"))
    tags = getattr(image, "tag_v2", {})
    if (image.mode in ("I", "F") and not deep) or any(kind != _UNSIGNED for kind in tags.get(_SAMPLE_FORMAT, ())):
        raise ValueError(
            f"the range of its values is unknown (mode {image.mode}); accepted are unsigned integers of 8 bits, "
            "and of 12 and 16 bits in gray"
        )
    ImageOps.exif_transpose(image, in_place=True)
    if deep:
        white = (1 << tags.get(_BITS_PER_SAMPLE, (16,))[0]) - 1
        gray = np.asarray(image).astype(np.uint32)
        gray[gray == image.info.get("transparency")] = white
        if tags.get(_PHOTOMETRIC) == _MIN_IS_WHITE:  # Pillow handles it only up to 8 bits
            gray = white - gray
        return Image.fromarray(((gray * 255 + white // 2) // white).astype(np.uint8))
    if image.mode.endswith("a"):  # premultiplied alpha
        image = image.convert(f"{image.mode[:-1]}A")
    if image.mode.endswith("A") or "transparency" in image.info:
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))
    return image


def _cause(error: Exception) -> str:
    from PIL import Image, UnidentifiedImageError

    if isinstance(error, UnidentifiedImageError):  # Pillow's message does not name the accepted formats
        known = ", ".join(readable_formats())
        return f"its content is none of {known}, or it is damaged, or in a variant that Pillow does not read"
    if isinstance(error, Image.DecompressionBombError):  # Pillow's message names its own limit
        return f"it has far more than {MAX_PIXELS:,} pixels, the most that are read"
    return str(error) or type(error).__name__
