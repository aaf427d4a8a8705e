import numpy as np
import pytest

from gpuconv.data import folder

Image = pytest.importorskip("PIL.Image")


def picture(height, width, value):
    rows = np.arange(height * width * 3).reshape(height, width, 3)
    return ((rows * 5 + value * 11) % 256).astype(np.uint8)


@pytest.fixture
def pets(tmp_path):
    """Ten pictures of 6x4 in each of three folders, and what is not to be read."""
    for label, name in enumerate(["cat", "ant", "bee"]):
        (tmp_path / name).mkdir()
        for number in range(10):
            Image.fromarray(picture(6, 4, 10 * label + number)).save(tmp_path / name / f"{number}.png")
        (tmp_path / name / "notes.txt").write_text("not an image")
        (tmp_path / name / ".hidden.png").write_text("nor this")
    (tmp_path / ".git").mkdir()
    (tmp_path / "README.md").write_text("nor this")
    return tmp_path


def test_classes_are_the_sorted_folders(pets):
    train, test = folder.load(pets, test=0.2)
    assert train.classes == ("ant", "bee", "cat")
    assert np.bincount(train.labels).tolist() == [8, 8, 8]
    assert np.bincount(test.labels).tolist() == [2, 2, 2]
    assert train.image_shape == (6, 4, 3)
    read = {image.tobytes() for part in (train, test) for image in part.images[part.labels == 1]}
    assert read == {picture(6, 4, 20 + number).tobytes() for number in range(10)}


def test_the_split_is_a_function_of_the_seed(pets):
    tests = [folder.load(pets, seed=seed)[1].images for seed in (0, 0, 1)]
    np.testing.assert_array_equal(tests[0], tests[1])
    assert not np.array_equal(tests[0], tests[2])


def test_resize_and_grey(pets):
    train, _ = folder.load(pets, size=(3, 5), channels=1)
    assert train.image_shape == (3, 5, 1)


def test_one_size_for_all_unless_resized(pets):
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


def test_a_class_without_images(pets):
    (pets / "dog").mkdir()
    with pytest.raises(FileNotFoundError, match=r"dog has no images"):
        folder.load(pets)


@pytest.mark.parametrize("name", ["empty", "missing", "file"])
def test_no_classes(tmp_path, name):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").touch()
    with pytest.raises(FileNotFoundError, match="one sub-folder"):
        folder.load(tmp_path / name)


def test_read_image_makes_any_picture_plain(tmp_path):
    pixels = picture(4, 3, 1)
    grey = pixels[..., 0]
    Image.fromarray(grey).save(tmp_path / "grey.png")
    np.testing.assert_array_equal(folder.read_image(tmp_path / "grey.png"), np.repeat(grey[..., None], 3, axis=2))
    np.testing.assert_array_equal(folder.read_image(tmp_path / "grey.png", channels=1), grey[..., None])
    with_alpha = np.dstack([pixels, np.full((4, 3), 255, np.uint8)])
    Image.fromarray(with_alpha).save(tmp_path / "alpha.png")
    np.testing.assert_array_equal(folder.read_image(tmp_path / "alpha.png"), pixels)


def test_read_image_turns_pictures_upright(tmp_path):
    pixels = picture(4, 3, 1)
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: rotate a quarter to show
    Image.fromarray(pixels).save(tmp_path / "turned.png", exif=exif)
    np.testing.assert_array_equal(folder.read_image(tmp_path / "turned.png"), np.rot90(pixels, -1))


def test_read_image_errors(tmp_path):
    with pytest.raises(FileNotFoundError):
        folder.read_image(tmp_path / "none.png")
    with pytest.raises(ValueError, match="channels must be 1"):
        folder.read_image(tmp_path / "none.png", channels=4)
    Image.fromarray(picture(2, 2, 0)).save(tmp_path / "a.png")
    with pytest.raises(ValueError, match="size"):
        folder.read_image(tmp_path / "a.png", size=(0, 3))
