"""A data set from a line of text, as on the command line."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from functools import partial

from gpuconv.data import cifar10, digits, folder, synthetic
from gpuconv.data.dataset import Dataset
from gpuconv.names import canonical
from gpuconv.spec import convert_options, name_and_rest, options_in, parse_flag
from gpuconv.text import parse_numbers
from gpuconv.types import Options


def load(spec: str, test: str | None = "") -> tuple[Dataset, Dataset]:
    """(train, test) of the data set that `spec` describes::

        digits                                          the shipped handwritten digits
        cifar10:DIR                                     CIFAR-10, python or binary version, from a directory
        folder:DIR[,size=32x32][,channels=1][,test=0.2][,seed=0][,split=name][,stream=1]   image files in class folders
                                                        (default: their own size, channels=3, test=0.2, seed=0,
                                                        split=name, stream=0)
        synthetic[:n=1024,size=32x32x3,classes=10,seed=0]          made-up images (default: these numbers)

    test: the description of a separate test set, as for `load_test`; then all images of a folder are for training. None
    and "" mean that there is none.

    Raises TypeError unless `spec` is text and `test` is text or None, and ValueError for a text that describes no data
    set; the message names what would be accepted. Also raises as `load` of the data set's module does.
    """
    if not isinstance(spec, str):
        raise TypeError(f"a data set is described by text, received {type(spec).__name__}")
    if not isinstance(test, str | None):
        raise TypeError(f"test must be text or None, received {type(test).__name__}")
    if not test:
        name, rest = name_and_rest(with_full_name(spec))
        return _SOURCES[name](rest)
    described = _described_folder(spec)
    if described is None:
        train = load(spec)[0]
    else:
        directory, options = described
        if "test" in options:
            raise ValueError(f"with a separate test set, all of {directory} is for training; leave test= out")
        train = _all_of_folder(directory, options)
    return train, load_test(test, spec, train.classes)


def stored_sets(spec: str) -> list[Dataset]:
    """The data sets that this text, stored by a run, may mean: (train, test), or all of a folder that is not split."""
    described = _described_folder(spec)
    if described is None or "test" in described[1]:
        return [*load(spec)]
    return [_all_of_folder(*described)]


def is_whole(spec: str) -> bool:
    """Whether `spec` describes a folder without a split, as `folder.load_all` writes it into `Dataset.spec`."""
    described = _described_folder(spec)
    return described is not None and "test" not in described[1]


def load_test(spec: str, like: str, classes: Sequence[str]) -> Dataset:
    """All images of a folder ("folder:DIR"), or the test images of another data set.

    like: the text of the training data, from which missing size=, channels= and stream= are taken. classes: those of
    the training data; their names determine the labels. Raises as `load` does, and ValueError if the classes differ.
    """
    described = _described_folder(spec)
    if described is None:
        return load(spec)[1].relabeled(classes)
    directory, stated = described
    if not is_test_set(spec) and "test" in stated:
        raise ValueError(f"all of {directory} is for testing; leave test={stated['test']} out")
    inherited = _options_of_folder(like)
    options = {key: inherited[key] for key in _SHAPE if key in inherited} | stated
    return _all_of_folder(directory, options).relabeled(classes)


def is_test_set(spec: str) -> bool:
    """Whether the text describes a folder whose images are all for testing: "folder:DIR,test=1"."""
    try:
        return parse_numbers.real(_options_of_folder(spec).get("test", "0")) == 1
    except ValueError:
        return False


def with_full_name(spec: str) -> str:
    """The text with its data set's name in lower case, and no colon if nothing follows.

    Raises ValueError for an unknown name."""
    name, rest = name_and_rest(spec)
    try:
        name = canonical("data set", name, _SOURCES)
    except ValueError as error:
        path, hint = os.path.expanduser(spec), ""
        if os.path.isdir(path):
            hint = f"; for a folder of images write folder:{spec}"
        elif os.path.isfile(path):
            hint = "; a file is not a data set: in Python, Trainer.fit takes arrays as (images, labels)"
        raise ValueError(f"{error}{hint}") from None
    return f"{name}:{rest}" if rest else name


def absolute_spec(spec: str, like: str = "") -> str:
    """A text that loads the same images from any current directory, and in every later version of gpuconv.

    like: the text of a run's data, from which missing options of a folder (its size, its split) are taken.
    """
    name, rest = name_and_rest(with_full_name(spec))
    if name == "cifar10" and rest:
        return f"cifar10:{_absolute(rest)}"
    if name != "folder" or not rest:
        return spec
    directory, stated = _folder_parts(rest)
    options = {"split": folder.SPLITS[0]} | _options_of_folder(like) | stated
    directory = _absolute(directory)
    if _folder_parts(directory)[1]:
        directory += "/"  # an option's value contains no "/", so "pets,b=c/" is not read as one
    return ",".join([f"folder:{directory}", *(f"{key}={value}" for key, value in options.items())])


def from_run(spec: str) -> str:
    """The stored text of a run's data, changed so that this version's `load` gives the same sets. A folder's text that
    names no split gets split=order, because version 0.1.0 used this rule and did not store it."""
    spec, described = with_full_name(spec), _described_folder(spec)
    return spec if described is None or "split" in described[1] else f"{spec},split=order"


def _absolute(directory: str) -> str:
    return os.path.abspath(os.path.expanduser(directory))


def _digits(rest: str) -> tuple[Dataset, Dataset]:
    if rest:
        raise ValueError(f"digits takes nothing after its name, received {rest!r}")
    return digits.load()


def _cifar10(rest: str) -> tuple[Dataset, Dataset]:
    if not rest:
        raise ValueError("cifar10 needs the directory of its files: cifar10:DIR")
    return cifar10.load(rest)


def _folder(rest: str) -> tuple[Dataset, Dataset]:
    directory, options = _folder_parts(rest)
    return folder.load(directory, **_folder_options(options))


def _all_of_folder(directory: str, options: dict[str, str]) -> Dataset:
    """All images of the folder; options of the split are ignored."""
    return folder.load_all(directory, **{k: v for k, v in _folder_options(options).items() if k in _SHAPE})


def _folder_options(options: dict[str, str]) -> Options:
    known = _SHAPE | {"test": parse_numbers.real, "seed": parse_numbers.integer, "split": str}
    return convert_options(options, known)


def _described_folder(spec: str) -> tuple[str, dict[str, str]] | None:
    """The directory and the options of a folder; None if `spec` describes another data set."""
    name, rest = name_and_rest(spec)
    return _folder_parts(rest) if name.lower() == "folder" else None


def _options_of_folder(spec: str) -> dict[str, str]:
    """The options of a folder; none if `spec` describes another data set."""
    described = _described_folder(spec)
    return {} if described is None else described[1]


def _folder_parts(rest: str) -> tuple[str, dict[str, str]]:
    """The directory and the options after "folder:"."""
    # A directory's name may contain commas and equal signs, so only trailing parts that look like options are options.
    directory, *options = re.split(r",(?=\w+=[^,/]*(?:,\w+=[^,/]*)*$)", rest)
    if not directory:
        raise ValueError("folder needs a directory with one sub-folder for each class: folder:DIR")
    return directory, options_in(options, rest)


def _synthetic(rest: str) -> tuple[Dataset, Dataset]:
    known: dict[str, Callable[[str], object]] = {
        "n": parse_numbers.integer,
        "size": partial(parse_numbers.volume, axes=3),
        "classes": parse_numbers.integer,
        "seed": parse_numbers.integer,
    }
    return synthetic.load(**convert_options(options_in(rest.split(",") if rest else (), rest), known))


_SOURCES: dict[str, Callable[[str], tuple[Dataset, Dataset]]] = {
    "digits": _digits,
    "cifar10": _cifar10,
    "folder": _folder,
    "synthetic": _synthetic,
}


_SHAPE: dict[str, Callable[[str], object]] = {
    "size": partial(parse_numbers.volume, axes=2),
    "channels": parse_numbers.integer,
    "stream": parse_flag,
}
