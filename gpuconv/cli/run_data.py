"""The data sets and loaders of a run, and warnings about images that the run may have been trained on."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gpuconv.cli.errors import UserError, user_errors
from gpuconv.cli.run_settings import Settings
from gpuconv.system.console import say
from gpuconv.system.files import describe_error

if TYPE_CHECKING:
    from gpuconv.cli.runs import Run
    from gpuconv.data import Dataset, Samples


def load_data(
    stored: Settings, given: str | None, test: str | None = None
) -> tuple[Dataset | Samples, Dataset | Samples]:
    """(train, test) of a run. given, test: --data and --test, which replace the run's. Raises UserError for data that
    cannot be read."""
    from gpuconv.data import from_spec, load

    with user_errors():
        try:
            return load(from_spec.absolute_spec(given, stored.data) if given else stored.data, test or stored.test)
        except FileNotFoundError as error:
            hint = "" if given else "; if the run's data has moved, give its location by --data"
            raise UserError(f"{describe_error(error)}{hint}") from error


def split_validation(
    settings: Settings, train: Dataset | Samples
) -> tuple[Dataset | Samples, Dataset | Samples | None]:
    """The images for training, and those split off for validation, or None."""
    if not settings.validation:
        return train, None
    with user_errors():
        return train.split(settings.validation, seed=settings.seed, what="validation")


def warn_of_other_data(run: Run, train: Dataset | Samples, test: Dataset | Samples) -> None:
    """Warn if images differ from the run's, because the run may have been trained on some of the test images."""
    stored = [run.stored.get(part) or {} for part in ("train", "test")]
    tested = bool(run.stored.get("test")) or not run.started_in_python
    try:
        train = split_validation(run.settings, train)[0]
        same = _is_same_data(run, "train", train) and (not tested or _is_same_data(run, "test", test))
    except UserError:  # it cannot be split like the run's, for example because a class has a single image
        same = False
    if not same:
        counts = [part.get("images", "?") for part in stored]
        _warn(
            f"the data differs from that of the run, which had {counts[0]} images to train on and {counts[1]} to test "
            f"on; this data has {len(train)} and {len(test)}: the run may have been trained on some of these test "
            "images"
        )


def warn_of_trained_images(run: Run, test: Dataset | Samples) -> None:
    """Warn how many images of another test set the run was trained on, or that their number is unknown."""
    from gpuconv.data import Samples

    unknown = "it is unknown whether the run was trained on some of these images: "
    try:
        train = split_validation(run.settings, load_data(run.settings, None)[0])[0]
    except UserError as error:
        return _warn(f"{unknown}{error}")
    if isinstance(train, Samples) or isinstance(test, Samples):
        return _warn(f"{unknown}images that are read as they are needed (stream=1) are not compared")
    if not _is_same_data(run, "train", train):
        return _warn(f"{unknown}its training images have changed")
    trained = {hash(image.tobytes()) for image in train.images}
    shared = sum(hash(image.tobytes()) in trained for image in test.images)
    if shared:
        _warn(f"the run was trained on {shared:,} of these {len(test):,} images")


def _is_same_data(run: Run, part: str, data: Dataset | Samples) -> bool:
    """Whether images and labels are those of this part of the run, "train" or "test"."""
    return (run.stored.get(part) or {}).get("checksum") == data.checksum()


def _warn(text: str) -> None:
    say(f"gpuconv: warning: {' '.join(text.split())}")
