"""From data sets to the loaders that feed a run, and what a run remembers of them."""

from __future__ import annotations

import zlib
from typing import Any

from gpuconv.data import Dataset, Loader, Normalization


def loaders(data: dict[str, Any], *, batch_size: int, seed: int, device: str, dtype: Any) -> dict[str, Any]:
    """Each part's loader, in order. A loader, or None, is itself.

    A Dataset becomes a loader, normalised by the statistics of the images of the first part, which alone is shuffled.
    Raises TypeError for what is neither, and where those images are not known.
    """
    made: dict[str, Any] = {}
    first = next(iter(data.values()))
    training = first if isinstance(first, Dataset) else getattr(first, "dataset", None)
    for name, part in data.items():
        if isinstance(part, Dataset):
            if not isinstance(training, Dataset):
                raise TypeError(f"give {name} as a Loader too: how to normalise its images is not known")
            normalization = Normalization.from_dataset(training)
            part = Loader(
                part, batch_size, normalization=normalization, seed=seed, shuffle=not made, device=device, dtype=dtype
            )
        elif not hasattr(part, "epoch") and not (made and part is None):
            raise TypeError(f"{name} must be a Loader or a Dataset, received {type(part).__name__}")
        made[name] = part
    return made


def describe(loader: Any) -> dict[str, Any] | None:
    """What a loader feeds the net, with a checksum of its images, so that other data is noticed. JSON-able."""
    if not isinstance(loader, Loader):
        return None if loader is None else {"batches": len(loader)}
    data = loader.dataset
    checksum = zlib.crc32(data.labels.data, zlib.crc32(data.images.data))
    return {
        "name": data.name, "images": len(data), "shape": list(data.image_shape), "checksum": f"{checksum:08x}",
        "batch_size": loader.batch_size, "shuffle": loader.shuffle, "drop_last": loader.drop_last,
        "seed": loader.seed, "augmentation": str(loader.augmentation),
    }  # fmt: skip
