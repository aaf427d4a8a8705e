"""Image folders: classes, the split, reading and errors."""

import unicodedata

import numpy as np
import pytest

from gpuconv.data import folder
from tests.images.pixels import picture

Image = pytest.importorskip("PIL.Image")


@pytest.fixture
def pets(tmp_path):
    """Ten pictures of 6x4 in each of three folders."""
    for folder_number, name in enumerate(["cat", "ant", "bee"]):
        (tmp_path / name).mkdir()
        for number in range(10):
            Image.fromarray(picture(6, 4, 10 * folder_number + number)).save(tmp_path / name / f"{number}.png")
    return tmp_path


def test_classes_are_the_sorted_folders(pets):
    train, test = folder.load(pets, test=0.2)
    assert train.classes == ("ant", "bee", "cat")
    assert (np.bincount(train.labels) + np.bincount(test.labels)).tolist() == [10, 10, 10]
    assert np.bincount(test.labels).min() >= 1
    assert train.image_shape == (6, 4, 3)
    read = {image.tobytes() for part in (train, test) for image in part.images[part.labels == 1]}
    assert read == {picture(6, 4, 20 + number).tobytes() for number in range(10)}  # bee is class 1 and folder 2


def test_the_split_depends_on_the_seed(pets):
    tests = [folder.load(pets, seed=seed)[1].images for seed in (0, 0, 1)]
    np.testing.assert_array_equal(tests[0], tests[1])
    assert not np.array_equal(tests[0], tests[2])


def test_a_seed_below_0_is_refused_for_a_split_by_order_before_any_image_is_read(pets, monkeypatch):
    monkeypatch.setattr(folder, "_read", None)
    with pytest.raises(ValueError, match="seed must be at least 0, received -1"):
        folder.load(pets, seed=-1, split="order")


def test_among_many_files_the_choice_of_a_test_file_does_not_depend_on_the_other_files():
    """Stored runs rely on this choice of test files: with another rule, a resumed run would be tested on images that
    it was trained on."""
    names = [f"cats/{number:03}.png" for number in range(10)]
    chosen = folder.for_testing(names, 0.2)
    assert [name for name, tested in zip(names, chosen) if tested] == ["cats/008.png"]
    all_names = [f"cats/{number}.png" for number in range(3000)]
    is_test = dict(zip(all_names, folder.for_testing(all_names, 0.2)))
    assert 540 <= sum(is_test.values()) <= 660  # a fifth of 3000 is 600
    some = all_names[::7]
    assert dict(zip(some, folder.for_testing(some, 0.2))) == {name: is_test[name] for name in some}
    larger = dict(zip(all_names, folder.for_testing(all_names, 0.3)))
    assert all(larger[name] for name in all_names if is_test[name])
    assert dict(zip(all_names, folder.for_testing(all_names, 0.2, seed=1))) != is_test


def test_every_class_has_a_training_and_a_test_image():
    for count in range(2, 9):
        for first in range(60):
            names = [f"{first}/{number}" for number in range(count)]
            for fraction in (0.01, 0.5, 0.99):
                assert 1 <= folder.for_testing(names, fraction).sum() <= count - 1
    assert folder.for_testing(["alone"], 0.99).tolist() == [False]


def test_a_name_in_decomposed_unicode_is_the_same_name():
    names = ["caf\u00e9/a", "caf\u00e9/b", "caf\u00e9/c"]
    for seed in range(20):
        decomposed = [unicodedata.normalize("NFD", name) for name in names]
        assert folder.for_testing(names, 0.5, seed).tolist() == folder.for_testing(decomposed, 0.5, seed).tolist()
    assert folder.for_testing(["x/\udcff", "x/b"], 0.5).sum() == 1  # undecodable names are assigned too


def test_photos_added_to_a_class_of_ten_move_no_training_image_into_the_test_part(pets):
    trained = {image.tobytes() for image in folder.load(pets)[0].images}
    for number in range(12):
        Image.fromarray(picture(6, 4, 60 + number)).save(pets / "cat" / f"0-new-{number}.png")
        test = {image.tobytes() for image in folder.load(pets)[1].images}
        assert not trained & test
    # The older rule, split="order", does move training images into the test part.
    tested_by_order = {image.tobytes() for image in folder.load(pets, split="order")[1].images}
    assert trained & tested_by_order


def test_the_split_rule_of_version_0_1_0_is_kept(pets):
    """Version 0.1.0 tested on picture(6, 4, value) with these values."""
    test = folder.load(pets, split="order")[1]
    values = {picture(6, 4, value).tobytes(): value for value in range(30)}
    assert [values[image.tobytes()] for image in test.images] == [13, 19, 26, 28, 5, 7]
    with pytest.raises(ValueError, match="unknown split 'nam'; did you mean 'name'"):
        folder.load(pets, split="nam")


def test_images_are_resized_and_converted_to_gray(pets):
    train, test = folder.load(pets, size=(3, 5), channels=1)
    assert train.image_shape == (3, 5, 1)
    gray = [Image.open(path).convert("L") for path in pets.glob("*/*.png")]
    expected = {image.resize((5, 3), Image.Resampling.BILINEAR).tobytes() for image in gray}
    assert {image.tobytes() for part in (train, test) for image in part.images} == expected


def test_one_number_is_the_height_and_the_width_of_the_images(pets):
    train, _ = folder.load(pets, size=3)
    assert train.image_shape == (3, 3, 3)
    assert ",size=3x3," in train.spec


def test_all_images_must_have_one_size_unless_resized(pets):
    Image.fromarray(picture(6, 5, 0)).save(pets / "bee" / "wide.jpg")
    with pytest.raises(ValueError, match=r"6x4.*wide\.jpg has 6x5.*size="):
        folder.load(pets)
    assert folder.load(pets, size=(6, 4))[0].image_shape == (6, 4, 3)


@pytest.mark.parametrize("content", [b"", b"not an image at all", None], ids=["empty", "text", "truncated"])
def test_an_unreadable_image_is_named(pets, content):
    path = pets / "cat" / "broken.png"
    path.write_bytes((pets / "cat" / "1.png").read_bytes()[:-30] if content is None else content)
    with pytest.raises(ValueError, match=r"cannot read .*broken\.png as an image"):
        folder.load(pets)


def test_one_image_per_class_leaves_no_test_images(tmp_path):
    for name in "ab":
        (tmp_path / name).mkdir()
        Image.fromarray(picture(2, 2, 0)).save(tmp_path / name / "0.png")
    with pytest.raises(
        ValueError, match=r"test part of .* would be empty: at least one class needs two images or more"
    ):
        folder.load(tmp_path)
    with pytest.raises(ValueError, match=r"test part of .* would be empty"):
        folder.load(tmp_path, seed=-1)


def test_the_only_image_of_a_class_is_trained_on_and_the_split_of_other_classes_is_kept(pets):
    expected = folder.load(pets)
    (pets / "dog").mkdir()
    Image.fromarray(picture(6, 4, 99)).save(pets / "dog" / "0.png")
    train, test = folder.load(pets)
    assert (train.labels == 3).sum() == 1
    np.testing.assert_array_equal(test.images, expected[1].images)


def test_a_whole_folder_is_read_without_a_split(pets):
    (pets / "cat" / "siamese").mkdir()
    Image.fromarray(picture(6, 4, 30)).save(pets / "cat" / "siamese" / "0.png")
    everything = folder.load_all(pets)
    assert (everything.name, everything.classes, len(everything)) == (pets.name, ("ant", "bee", "cat"), 31)
    assert np.bincount(everything.labels).tolist() == [10, 10, 11]
    assert sum(map(len, folder.load(pets))) == 31
    assert sum(map(len, folder.load(pets, split="order"))) == 30  # as in version 0.1.0, without the subfolder


@pytest.mark.parametrize("others", [0, 3], ids=["every class", "one class"])
def test_split_order_refuses_a_class_with_images_only_in_subfolders(tmp_path, others):
    """split=order is the rule of version 0.1.0, which read no subfolders of a class."""
    (tmp_path / "ant" / "within").mkdir(parents=True)
    Image.fromarray(picture(6, 4, 0)).save(tmp_path / "ant" / "within" / "0.png")
    (tmp_path / "bee" / "within").mkdir(parents=True)
    Image.fromarray(picture(6, 4, 1)).save(tmp_path / "bee" / "within" / "0.png")
    for number in range(others):
        Image.fromarray(picture(6, 4, number)).save(tmp_path / "ant" / f"{number}.png")
    with pytest.raises(FileNotFoundError, match=f"{'bee' if others else 'ant'} has no images that split=order reads"):
        folder.load(tmp_path, split="order")


def test_a_tilde_is_the_home_folder(pets, monkeypatch):
    monkeypatch.setenv("HOME", str(pets.parent))
    assert len(folder.load_all(f"~/{pets.name}")) == 30
    with pytest.raises(FileNotFoundError, match="there is no such folder: '~nobody-here/pets'"):
        folder.load_all("~nobody-here/pets")


def test_the_test_fraction_is_between_0_and_1():
    for fraction in (0, -0.5, 1.5):
        with pytest.raises(ValueError, match="test must be between 0 and 1"):
            folder.load("nowhere", test=fraction)
