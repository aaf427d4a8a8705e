"""Which random changes a training image goes through."""

from __future__ import annotations

import dataclasses

from gpuconv.names import lookup
from gpuconv.shapes import integer


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """Random changes of each image, drawn anew in each epoch; the default is none.

    flip: mirror left to right with probability 1/2. shift: move by up to so many pixels along each axis. cutout: blank
    a square of that side around a uniformly drawn centre. `ops.load_batch` says how each is drawn.
    """

    flip: bool = False
    shift: int = 0
    cutout: int = 0

    def __post_init__(self) -> None:
        if not isinstance(self.flip, bool):
            raise TypeError(f"flip must be True or False, received {self.flip!r}")
        for name in ("shift", "cutout"):
            object.__setattr__(self, name, integer(name, getattr(self, name), 0))

    @classmethod
    def parse(cls, text: str) -> Augmentation:
        """From text such as "flip,shift:4,cutout:8", or "none". Raises ValueError for anything else."""
        if text.strip().lower() == "none":
            return cls()
        options: dict[str, bool | int] = {}
        for part in text.split(","):
            name, colon, size = (piece.strip() for piece in part.partition(":"))
            name, takes_size = lookup("augmentation", name, _PARTS)
            if name in options:
                raise ValueError(f"augmentation {name!r} is given twice in {text!r}")
            if takes_size != bool(colon) or (takes_size and not size.isdecimal()):
                form = f"{name}:PIXELS" if takes_size else name
                raise ValueError(f"augmentation {name!r} is written {form}, received {part.strip()!r}")
            options[name] = int(size) if takes_size else True
        return cls(**options)  # type: ignore[arg-type]

    def __str__(self) -> str:
        """The text that `parse` turns back into this."""
        sizes = [f"{name}:{getattr(self, name)}" for name in ("shift", "cutout") if getattr(self, name)]
        return ",".join((["flip"] if self.flip else []) + sizes) or "none"


_PARTS = {"flip": ("flip", False), "shift": ("shift", True), "cutout": ("cutout", True)}
