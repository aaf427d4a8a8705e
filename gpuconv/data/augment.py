"""Random augmentation of training images."""

from __future__ import annotations

import dataclasses
from typing import Any

from gpuconv import spec
from gpuconv.arguments import BORDERS, flip_value, integer
from gpuconv.names import canonical, lookup


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """Random changes of each image, drawn again in each epoch; the default is none.

    flip: mirror left to right with probability 1/2; "alternating" mirrors half of the images in the first epoch, the
    other half in the second, and so on. shift: move by up to this many pixels along each axis. border: what is shifted
    in, "zero" or "reflect". cutout: zero a square of this side around a uniformly drawn centre. See `ops.load_batch`
    for how they are drawn.
    """

    flip: bool | str = False
    shift: int = 0
    border: str = "zero"
    cutout: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "flip", flip_value(self.flip))
        object.__setattr__(self, "border", canonical("border", self.border, BORDERS))
        for name in ("shift", "cutout"):
            object.__setattr__(self, name, integer(name, getattr(self, name), 0))

    @classmethod
    def parse(cls, text: str) -> Augmentation:
        """An augmentation from its short form.

        Args:
            text: Such as "flip,shift:4,cutout:8", "alternating-flip,shift:2,reflect" or "none".

        Raises:
            ValueError: Any other text.
        """
        if text.strip().lower() == "none":
            return cls()
        options: dict[str, Any] = {}
        for part in spec.parse(text, like="flip,shift:4"):
            name, option, value = lookup("augmentation", part.name, _PARTS)
            if option in options:
                raise ValueError(f"augmentation {option!r} is given twice in {text!r}")
            pixels = [number for number in part.numbers if number.is_integer() and number >= 0]
            if part.options or len(part.numbers) != len(pixels) or len(pixels) != (value is None):
                form = f"{name}:PIXELS" if value is None else name
                raise ValueError(f"augmentation {name!r} is written {form}, received {text!r}")
            options[option] = int(pixels[0]) if value is None else value
        return cls(**options)

    def __str__(self) -> str:
        """The text that `parse` reads."""
        parts = [name for name, option, value in _PARTS.values() if value and getattr(self, option) == value]
        parts += [f"{name}:{getattr(self, name)}" for name in ("shift", "cutout") if getattr(self, name)]
        return ",".join(parts) or "none"


# The name in the text, the option, and its value; None: the number after the colon.
_PARTS: dict[str, tuple[str, str, object]] = {
    name: (name, option, value)
    for name, option, value in (
        ("flip", "flip", True),
        ("alternating-flip", "flip", "alternating"),
        ("reflect", "border", "reflect"),
        ("shift", "shift", None),
        ("cutout", "cutout", None),
    )
}
