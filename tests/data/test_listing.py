"""The files of a folder: images are listed, the others are reported."""

import errno
import os
import pathlib

import pytest

from gpuconv.data import listing
from gpuconv.data.listing import list_images
from gpuconv.notices import Notice

pytest.importorskip("PIL")


def touch(*paths):
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def names(root):
    return {name: [str(path.relative_to(root)) for path in paths] for name, paths in list_images(root).items()}


def test_classes_are_folders_and_include_their_subfolders(tmp_path):
    touch(
        tmp_path / "cats/2.png",
        tmp_path / "cats/1.JPG",
        tmp_path / "cats/persian/old/3.jfif",
        tmp_path / "cats/odd.png/4.png",
        tmp_path / "cats/.thumbnails/1.png",
        tmp_path / "cats/.5.png",
        tmp_path / "ants/1.tiff",
        tmp_path / ".git/config",
    )
    assert names(tmp_path) == {
        "ants": ["ants/1.tiff"],
        "cats": ["cats/1.JPG", "cats/2.png", "cats/odd.png/4.png", "cats/persian/old/3.jfif"],
    }


def test_files_that_are_not_read_are_counted(tmp_path, monkeypatch):
    monkeypatch.setattr("gpuconv.data.listing.readable_suffixes", lambda: (".png",))
    touch(
        tmp_path / "cats/1.png",
        tmp_path / "cats/1.heic",
        tmp_path / "cats/b/2.HEIC",
        tmp_path / "cats/IMG_1",
        tmp_path / "dogs/1.png",
        tmp_path / "dogs/labels.csv",
        tmp_path / "README.md",
    )
    (tmp_path / "cats/gone.png").symlink_to("/unmounted/cat.png")
    (tmp_path / "cats/loop.png").symlink_to("loop.png")
    (tmp_path / "cats/up").symlink_to("..", target_is_directory=True)
    (tmp_path / "cats/top").symlink_to("/", target_is_directory=True)
    (tmp_path / "cats/again").symlink_to("b", target_is_directory=True)
    os.mkfifo(tmp_path / "dogs/2.png")
    with pytest.warns(Notice) as caught:
        listed = names(tmp_path)
    assert listed == {"cats": ["cats/1.png"], "dogs": ["dogs/1.png"]}
    expected = (
        "1 x .csv, 2 x .heic, 1 x .md, 1 x FIFO, 2 x dangling link, 1 x file without a suffix, "
        "3 x link to a folder above or read already"
    )
    assert [str(warning.message) for warning in caught] == [f"{tmp_path}: files that are not read: {expected}"]


def test_links_to_folders_are_followed_once(tmp_path):
    """A chain of 30 folders with two links each has 2^30 paths; listing it still ends."""
    root = tmp_path / "root"
    touch(root / "cats/1.png", root / "dogs/1.png")
    for level in range(30):
        (tmp_path / f"{level}").mkdir()
        for name in "ab":
            (tmp_path / f"{level}/{name}").symlink_to(tmp_path / f"{level + 1}")
    touch(tmp_path / "30/2.png")
    for name in ("cats", "dogs"):
        (root / name / "more").symlink_to(tmp_path / "0")
    with pytest.warns(Notice, match="60 x link to a folder above or read already"):
        assert {name: len(paths) for name, paths in names(root).items()} == {"cats": 2, "dogs": 2}


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda root: None, FileNotFoundError, "there is no such folder"),
        (lambda root: root.touch(), NotADirectoryError, "is not a folder"),
        (lambda root: root.symlink_to("nothing"), FileNotFoundError, "there is no such folder"),
        (lambda root: root.mkdir(), FileNotFoundError, "one sub-folder of images for each class; it has none$"),
        (lambda root: touch(root / "1.png"), FileNotFoundError, "for each class; it has none; 1 x .png$"),
        (lambda root: (root / "dogs").mkdir(parents=True), FileNotFoundError, r"dogs has no images \(.*\.png"),
        (lambda root: touch(root / "dogs/1.txt"), FileNotFoundError, r"dogs has no images .*; 1 x \.txt$"),
        (
            lambda root: (root.mkdir(), (root / "birds").symlink_to("/unmounted")),
            FileNotFoundError,
            r"is a link to nothing \(/unmounted\): .*birds",
        ),
    ],
    ids=[
        "missing",
        "file",
        "dangling",
        "empty",
        "images-without-classes",
        "empty-class",
        "no-images",
        "dangling-class",
    ],
)
def test_folders_that_cannot_be_listed_are_refused(tmp_path, make, error, message):
    make(tmp_path / "photos")
    with pytest.raises(error, match=message):
        list_images(tmp_path / "photos")


def test_an_unreadable_folder_is_an_error(monkeypatch, tmp_path):
    """Only links to nothing or to themselves are skipped."""
    (tmp_path / "cats").mkdir()

    def refuse(self):
        raise PermissionError(errno.EACCES, "Permission denied", str(self))

    monkeypatch.setattr(pathlib.Path, "stat", refuse)
    with pytest.raises(PermissionError, match="cats"):
        list(listing._entries(tmp_path))
