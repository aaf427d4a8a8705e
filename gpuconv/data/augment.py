"""Random augmentation of training images."""

from __future__ import annotations

import dataclasses

from gpuconv import spec
from gpuconv.arguments import integer, number
from gpuconv.batch_augmentation import BORDERS, flip_value
from gpuconv.names import canonical, lookup
from gpuconv.types import Options

_LARGEST_ALPHA = 1000.0  # of mixup and cutmix; Beta(1000, 1000) is close to 1/2, with a standard deviation of 0.011


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """Random changes of each image, drawn again in each epoch; the default is none.

    flip: mirror left to right with probability 1/2; "alternating" mirrors half of the images in the first epoch, the
    other half in the second, and so on. shift: move by up to this many pixels along each axis. border: the pixels that
    are shifted in, "zero" or "reflect". cutout: zero a square of this side around a uniformly drawn center.
    resized_crop: stretch a part of the image, at least this share of its area, to the image's size; 0 does not crop.
    brightness: multiply by a factor between max(0, 1 - brightness) and 1 + brightness. contrast: multiply each value's
    distance from the image's mean gray by such a factor. saturation: multiply each value's distance from its pixel's
    gray by such a factor. hue: rotate the hue by up to this fraction of the circle, at most 0.5. `ops.load_batch` tells
    how they are drawn.

    mixup: blend each image with another of its batch, by a factor from the distribution Beta(mixup, mixup). cutmix:
    replace a rectangle by the same rectangle of another image. The rectangle's share of the area, before it is clipped
    at the border, is drawn from Beta(cutmix, cutmix). Both turn labels into class probabilities. See `ops.mix_batch`.

    Raises TypeError for a value of another type, and ValueError for a value out of its range or if mixup and cutmix are
    both above 0.
    """

    flip: bool | str = False
    shift: int = 0
    border: str = "zero"
    cutout: int = 0
    resized_crop: float = 0.0
    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0
    mixup: float = 0.0
    cutmix: float = 0.0
    hue: float = 0.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "flip", flip_value(self.flip))
        object.__setattr__(self, "border", canonical("border", self.border, BORDERS))
        for name in ("shift", "cutout"):
            object.__setattr__(self, name, integer(name, getattr(self, name), 0))
        object.__setattr__(self, "resized_crop", number("resized_crop", self.resized_crop, 0.0, 1.0))
        for name in ("brightness", "contrast", "saturation"):
            object.__setattr__(self, name, number(name, getattr(self, name), 0.0))
        object.__setattr__(self, "hue", number("hue", self.hue, 0.0, 0.5))
        for name in ("mixup", "cutmix"):
            object.__setattr__(self, name, number(name, getattr(self, name), 0.0, _LARGEST_ALPHA))
        if self.mixup and self.cutmix:
            raise ValueError(
                f"a batch is mixed by mixup or by cutmix, received both, mixup {self.mixup} and cutmix {self.cutmix}"
            )

    @property
    def mixing(self) -> str | None:
        """The method that mixes the images of a batch: "mixup", "cutmix" or None."""
        return "mixup" if self.mixup else "cutmix" if self.cutmix else None

    @property
    def colors(self) -> tuple[float, float, float, float]:
        """How much brightness, contrast, saturation and hue change."""
        return self.brightness, self.contrast, self.saturation, self.hue

    colours = colors  # the former name

    @classmethod
    def parse(cls, text: str) -> Augmentation:
        """An augmentation from its short form.

        Args:
            text: Such as "flip,shift:4,cutout:8", "alternating-flip,shift:2,reflect",
                "resized-crop:0.08" or "none".

        Raises:
            TypeError: `text` is not text.
            ValueError: Any other text.
        """
        if not isinstance(text, str):
            raise TypeError(f"an augmentation is described by text, received {type(text).__name__}")
        if text.strip().lower() == "none":
            return cls()
        options: Options = {}
        given: dict[str, str] = {}  # field -> the name in the text that set it
        for part in spec.parse(text, like="flip,shift:4"):
            name, option, value = lookup("augmentation", part.name, _PARTS)
            if option in options:
                earlier = given[option]
                raise ValueError(
                    f"augmentation {name!r} is given twice in {text!r}"
                    if name == earlier
                    else f"augmentation {name!r} sets {option}, which {earlier!r} set already, in {text!r}"
                )
            unit = _UNITS.get(name)
            numbers = [each for each in part.numbers if each >= 0 and (unit != "PIXELS" or each.is_integer())]
            count = 0 if unit is None else 1
            if part.options or len(part.numbers) != count or len(numbers) != count:
                raise ValueError(
                    f"augmentation {name!r} is written {f'{name}:{unit}' if unit else name}, received {text!r}"
                )
            if unit is not None:
                value = int(numbers[0]) if unit == "PIXELS" else numbers[0]
            options[option], given[option] = value, name
        return cls(**options)

    def __str__(self) -> str:
        """The text that `parse` reads."""
        parts = [name for name, option, value in _PARTS.values() if value and getattr(self, option) == value]
        parts += [f"{name}:{given!r}" for name in _UNITS if (given := getattr(self, _PARTS[name][1]))]
        return ",".join(parts) or "none"


# The augmentations that take a number, and the word for it in messages.
_UNITS = {
    "shift": "PIXELS",
    "cutout": "PIXELS",
    "resized-crop": "AREA",
    "brightness": "STRENGTH",
    "contrast": "STRENGTH",
    "saturation": "STRENGTH",
    "hue": "STRENGTH",
    "mixup": "ALPHA",
    "cutmix": "ALPHA",
}

# Name in the text -> (that name, field of `Augmentation`, value); None stands for the number after the colon.
_PARTS: dict[str, tuple[str, str, object]] = {
    "flip": ("flip", "flip", True),
    "alternating-flip": ("alternating-flip", "flip", "alternating"),
    "reflect": ("reflect", "border", "reflect"),
} | {name: (name, name.replace("-", "_"), None) for name in _UNITS}
