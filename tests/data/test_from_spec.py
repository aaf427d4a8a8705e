"""Data sets by their text form."""

import numpy as np
import pytest

from gpuconv.data import folder, from_spec, load, synthetic
from gpuconv.data.from_spec import absolute_spec, is_test_set, is_whole, load_test


def test_digits_are_loaded_by_name():
    assert [len(part) for part in load("digits")] == [1437, 360]


@pytest.mark.parametrize(
    "spec", ["synthetic:N=60,size=6x4x2,classes=3,seed=5", "Synthetic:classes=3,n=60,seed=5,size=6X4X2"]
)
def test_synthetic_images_are_loaded_by_name(spec):
    train, test = load(spec)
    expected = synthetic.load(60, size=(6, 4, 2), classes=3, seed=5)
    np.testing.assert_array_equal(train.images, expected[0].images)
    np.testing.assert_array_equal(test.images, expected[1].images)


@pytest.mark.parametrize("test", ["", None])
def test_without_a_separate_test_set_the_data_set_is_split(test):
    assert [len(part) for part in load("digits", test)] == [1437, 360]


def test_synthetic_without_options_is_the_default():
    assert load("synthetic")[0].images.shape == (1024, 32, 32, 3)


def test_a_separate_test_set_replaces_the_test_part_and_takes_the_order_of_the_training_classes():
    spec, other = (f"synthetic:n=60,size=6x4x2,classes=3,seed={seed}" for seed in (5, 6))
    train, test = load(spec, other)
    np.testing.assert_array_equal(train.images, load(spec)[0].images)
    np.testing.assert_array_equal(test.images, load(other)[1].images)
    reversed_labels = 2 - load(other)[1].labels
    np.testing.assert_array_equal(load_test(other, spec, train.classes[::-1]).labels, reversed_labels)


@pytest.mark.parametrize(
    ("spec", "arguments"),
    [
        ("folder:pets", ("pets", {})),
        ("folder:C:/my, pets", ("C:/my, pets", {})),
        ("folder:a=1,b/c", ("a=1,b/c", {})),
        (
            "folder:my,pets,size=24x32,channels=1,test=0.25,seed=3,split=order",
            ("my,pets", {"size": (24, 32), "channels": 1, "test": 0.25, "seed": 3, "split": "order"}),
        ),
    ],
)
def test_a_folder_is_loaded_with_and_without_options(monkeypatch, spec, arguments):
    monkeypatch.setattr(folder, "load", lambda directory, **options: (directory, options))
    assert load(spec) == arguments


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("digit", "did you mean 'digits'"),
        ("", "unknown data set"),
        ("digits:8", "nothing after its name"),
        ("cifar10", "cifar10:DIR"),
        ("cifar10:", "cifar10:DIR"),
        ("folder", "folder:DIR"),
        ("folder:pets,sise=3x3", "did you mean 'size'"),
        ("synthetic:N=many", "cannot read 'n=many': expected an integer, received 'many'$"),
        ("folder:x,test=half", "cannot read 'test=half': expected a number, received 'half'$"),
        ("synthetic:N=0", "at least 1"),
        ("synthetic:size=32x32", "32x32x3"),
        ("synthetic:size=0x1x1", "32x32x3"),
        ("synthetic:clases=3", "did you mean 'classes'"),
        ("synthetic:60", "unknown option"),
    ],
)
def test_a_bad_spec_is_refused(spec, message):
    with pytest.raises(ValueError, match=message):
        load(spec)


def test_the_error_for_the_path_of_a_folder_or_file_says_what_to_write(tmp_path):
    (tmp_path / "arrays.npz").touch()
    with pytest.raises(ValueError, match=r"unknown data set .*; for a folder of images write folder:/"):
        load(str(tmp_path))
    with pytest.raises(ValueError, match=r"a file is not a data set: in Python, Trainer.fit takes arrays as \("):
        load(str(tmp_path / "arrays.npz"))


def test_a_spec_must_be_text():
    with pytest.raises(TypeError, match="described by text, received NoneType"):
        load(None)


@pytest.mark.parametrize("name", ["folder", "Folder"])
def test_a_test_folder_takes_its_size_from_the_training_folder(monkeypatch, name):
    asked = {}

    def load_all(directory, **options):
        asked[directory] = options
        return synthetic.load(4, size=(3, 3, 3), classes=2)[0]

    monkeypatch.setattr(folder, "load_all", load_all)
    load(f"{name}:train,size=8x9,channels=1,seed=3", "folder:test,channels=3")
    assert asked == {"train": {"size": (8, 9), "channels": 1}, "test": {"size": (8, 9), "channels": 3}}
    assert [is_whole(f"{name}:train"), is_whole(f"{name}:train,test=0.5")] == [True, False]


def test_a_folder_name_that_looks_like_an_option_stays_a_name_if_a_slash_follows(monkeypatch, tmp_path):
    """The stored text has the slash, too."""
    monkeypatch.setattr(folder, "load", lambda directory, **options: (directory, options))
    monkeypatch.chdir(tmp_path)
    stored = absolute_spec("folder:pets,b=c/,size=3x3")
    directory, options = load(stored)
    assert directory.rstrip("/") == str(tmp_path / "pets,b=c")
    assert options == {"size": (3, 3), "split": "name"}
    assert absolute_spec(stored) == stored
    assert "/," not in absolute_spec("folder:pets,size=3x3")


def test_a_folder_is_a_test_set_if_its_option_test_equals_1():
    texts = {
        "folder:x,test=1": True,
        "folder:x,test=1.0": True,
        "Folder:x,TEST=1": True,
        "folder:x,test=0.5": False,
        "folder:x": False,
        "folder:x,test=all": False,
        "digits": False,
        "folder:": False,
    }
    assert {text: is_test_set(text) for text in texts} == texts


def test_options_missing_from_new_data_are_taken_from_the_run(tmp_path, monkeypatch):
    current = tmp_path.resolve()
    monkeypatch.chdir(current)
    for new, stored, expected in [
        ("folder:x", "folder:/y,size=8x8,test=0.5,split=order", "folder:{}/x,split=order,size=8x8,test=0.5"),
        ("Folder:x,size=4x4", "folder:/y,size=8x8,split=name", "folder:{}/x,split=name,size=4x4"),
        ("folder:x,SPLIT=order", "digits", "folder:{}/x,split=order"),
        ("folder:/a,b=1/x", "", "folder:/a,b=1/x,split=name"),
        ("cifar10:x", "cifar10:/y", "cifar10:{}/x"),
        ("digits", "folder:/y,size=8x8", "digits"),
        ("synthetic:n=3", "synthetic:n=4", "synthetic:n=3"),
    ]:
        spec = expected.format(current)
        assert from_spec.absolute_spec(new, stored) == spec
        assert from_spec.absolute_spec(spec) == spec
    assert from_spec.absolute_spec("folder:~/x") == f"folder:{from_spec._absolute('~')}/x,split=name"
    assert from_spec.from_run("folder:x,size=3x3") == "folder:x,size=3x3,split=order"
    assert from_spec.from_run("folder:x,split=name") == "folder:x,split=name"
    assert from_spec.from_run("cifar10:x") == "cifar10:x"
