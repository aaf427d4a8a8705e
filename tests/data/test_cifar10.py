"""CIFAR-10 in both formats, mostly with files of a few images to keep the tests fast."""

import os
import pickle
import struct
import tracemalloc

import numpy as np
import pytest

from gpuconv import data, random
from gpuconv.data import cifar10, pickles

FILES = [*cifar10.TRAIN_FILES, *cifar10.TEST_FILES]
COUNT = 6


@pytest.fixture
def short_files(monkeypatch):
    monkeypatch.setattr(cifar10, "IMAGES_PER_FILE", COUNT)


def batch(number, count=COUNT):
    """Pixels (count, 3072) in the files' order, three planes of 32x32, and labels."""
    words = random.bits(count * 768, seed=number, stream=random.DATA)
    return words.view(np.uint8).reshape(count, 3072), (np.arange(count) * 3 + number) % 10


def write_binary(directory, count=COUNT):
    directory.mkdir(exist_ok=True)
    for number, name in enumerate(FILES):
        pixels, labels = batch(number, count)
        np.hstack([labels.astype(np.uint8)[:, None], pixels]).tofile(directory / f"{name}.bin")


def write_python(directory, protocol=2, as_bytes=True):
    directory.mkdir(exist_ok=True)
    for number, name in enumerate(FILES):
        pixels, labels = batch(number)
        content = {"data": pixels, "labels": labels.tolist(), "batch_label": name, "filenames": ["a.png"] * COUNT}
        if as_bytes:
            content = {key.encode(): value for key, value in content.items()}
        (directory / name).write_bytes(pickle.dumps(content, protocol))


def check(train, test):
    assert train.classes[:2] == ("airplane", "automobile")
    assert train.images.shape == (5 * COUNT, 32, 32, 3)
    assert test.images.shape == (COUNT, 32, 32, 3)
    pixels, labels = zip(*(batch(number) for number in range(6)))
    np.testing.assert_array_equal(train.labels, np.concatenate(labels[:5]))
    np.testing.assert_array_equal(test.labels, labels[5])
    # Row 7, column 9 of the third image's green channel, which is its second plane.
    assert test.images[2, 7, 9, 1] == pixels[5][2, 1024 + 7 * 32 + 9]
    np.testing.assert_array_equal(train.images[COUNT + 1, :, :, 2].ravel(), pixels[1][1, 2048:])


@pytest.mark.parametrize("subfolder", ["", "cifar-10-batches-bin"])
def test_the_binary_version_is_read(short_files, tmp_path, subfolder):
    write_binary(tmp_path / subfolder)
    check(*cifar10.load(tmp_path))
    check(*data.load(f"cifar10:{tmp_path}"))


@pytest.mark.parametrize("subfolder", ["", "cifar-10-batches-py"])
@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("as_bytes", [False, True])
def test_the_python_version_is_read(short_files, tmp_path, subfolder, protocol, as_bytes):
    write_python(tmp_path / subfolder, protocol, as_bytes)
    check(*cifar10.load(tmp_path))


def python2_pickle(pixels, labels):
    """Protocol 2 as Python 2 wrote the published files, opcode by opcode: byte strings, numpy.core, integers."""

    def text(value):
        if len(value) < 256:
            return b"U" + bytes([len(value)]) + value
        return b"T" + struct.pack("<i", len(value)) + value

    dtype = (
        b"cnumpy\ndtype\n("
        + text(b"u1")
        + b"K\x00K\x01tR(K\x03"
        + text(b"|")
        + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    )
    shape = b"M" + struct.pack("<H", pixels.shape[0]) + b"M" + struct.pack("<H", pixels.shape[1]) + b"\x86"
    array = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(K\x00t" + text(b"b") + b"tR"
    array += b"(K\x01" + shape + dtype + b"\x89" + text(pixels.tobytes()) + b"tb"
    numbers = b"](" + b"".join(b"K" + bytes([label]) for label in labels) + b"e"
    return b"\x80\x02}(" + text(b"data") + array + text(b"labels") + numbers + b"u."


def test_arrays_of_every_layout_are_read_at_every_pickle_protocol(short_files, tmp_path):
    """Contiguous, Fortran-ordered, a view and read-only arrays."""
    pixels, labels = batch(0)
    frozen = pixels.copy()
    frozen.flags.writeable = False
    for protocol in range(6):
        for array in (pixels, np.asfortranarray(pixels), np.repeat(pixels, 2, axis=0)[::2], frozen):
            names = [b"a.png"] * COUNT
            content = {b"data": array, b"labels": labels.tolist(), b"filenames": names, b"batch_label": b"batch 1"}
            (tmp_path / "batch").write_bytes(pickle.dumps(content, protocol))
            read, read_labels = cifar10._read_python(tmp_path / "batch")
            np.testing.assert_array_equal(read, pixels)
            np.testing.assert_array_equal(read_labels, labels)


def test_pickles_of_python_2_are_read(short_files, tmp_path):
    for number, name in enumerate(FILES):
        (tmp_path / name).write_bytes(python2_pickle(*batch(number)))
    check(*cifar10.load(tmp_path))


@pytest.mark.slow
def test_files_of_full_size_are_read(tmp_path):
    write_binary(tmp_path, 10_000)
    train, test = cifar10.load(tmp_path)
    assert (len(train), len(test)) == (50_000, 10_000)


# -- invalid files ------------------------------------------------------------------------------


def test_an_empty_folder_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no CIFAR-10 in .*data_batch_1.*gpuconv data cifar10 --to"):
        cifar10.load(tmp_path / "nowhere")


@pytest.mark.parametrize(("write", "name"), [(write_binary, "data_batch_3.bin"), (write_python, "test_batch")])
def test_a_missing_file_is_named(short_files, tmp_path, write, name):
    write(tmp_path)
    (tmp_path / name).unlink()
    with pytest.raises(FileNotFoundError, match=f"is incomplete: {name} missing"):
        cifar10.load(tmp_path)


@pytest.mark.parametrize("size", [0, 100, COUNT * 3073 - 1, COUNT * 3073 + 1])
def test_a_binary_file_of_the_wrong_size_is_refused(short_files, tmp_path, size):
    write_binary(tmp_path)
    os.truncate(tmp_path / "data_batch_4.bin", size)
    with pytest.raises(ValueError, match=rf"data_batch_4\.bin.*expected {COUNT * 3073} bytes, found {size}"):
        cifar10.load(tmp_path)


def test_a_binary_file_with_labels_out_of_range_is_refused(short_files, tmp_path):
    write_binary(tmp_path)
    content = bytearray((tmp_path / "test_batch.bin").read_bytes())
    content[3073] = 10
    (tmp_path / "test_batch.bin").write_bytes(content)
    with pytest.raises(ValueError, match=r"test_batch\.bin is corrupt.*\[0, 10\).*10"):
        cifar10.load(tmp_path)


@pytest.mark.parametrize("keep", [0, 1, 50, -1, -100])
def test_a_truncated_pickle_is_refused(short_files, tmp_path, keep):
    write_python(tmp_path)
    content = (tmp_path / "data_batch_2").read_bytes()[:keep]
    (tmp_path / "data_batch_2").write_bytes(content)
    with pytest.raises(ValueError, match=rf"data_batch_2.*expected.*{COUNT} images.*found {len(content)} bytes"):
        cifar10.load(tmp_path)


def test_pickles_with_one_changed_byte_are_read_or_raise_a_value_error_that_names_the_file(short_files, tmp_path):
    """The changed byte lies before or after the pixels."""
    write_python(tmp_path)
    valid = (tmp_path / "data_batch_1").read_bytes()
    outside_pixels = [*range(0, 200, 3), *range(len(valid) - 200, len(valid), 3)]
    refused = []
    for position in outside_pixels:
        changed = bytearray(valid)
        changed[position] ^= 0x55
        (tmp_path / "data_batch_1").write_bytes(changed)
        try:
            cifar10._read_python(tmp_path / "data_batch_1")
        except ValueError as error:
            refused.append(str(error))
    assert len(refused) > len(outside_pixels) // 3
    assert all("data_batch_1" in message for message in refused)


PIXELS, LABELS = batch(0)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([1, 2], "expected a pickled dict, found list"),
        ({}, "expected 'data'.*found none"),
        ({"data": [1], "labels": LABELS.tolist()}, "'data'"),
        ({"data": PIXELS.astype(np.int64), "labels": LABELS.tolist()}, "'data' of uint8"),
        ({"data": PIXELS[:-1], "labels": LABELS.tolist()}, rf"\({COUNT}, 3072\), found shape \({COUNT - 1}, 3072\)"),
        ({"data": PIXELS}, "'labels'.*NoneType"),
        ({"data": PIXELS, "labels": LABELS.tolist()[1:]}, f"found {COUNT - 1} entries"),
        ({"data": PIXELS, "labels": [0.0] * COUNT}, "integers"),
        ({"data": PIXELS, "labels": [11] * COUNT}, r"labels in \[0, 10\), found 11"),
        ({"data": PIXELS, "labels": [-1] * COUNT}, "found -1"),
    ],
)
def test_pickles_of_other_objects_are_refused(short_files, tmp_path, content, message):
    write_python(tmp_path)
    (tmp_path / "data_batch_1").write_bytes(pickle.dumps(content, 2))
    with pytest.raises(ValueError, match=f"data_batch_1 .*{message}"):
        cifar10.load(tmp_path)


def test_labels_too_long_to_print_are_refused(short_files, tmp_path):
    """Python does not convert such integers to text, so the error cannot contain them."""
    write_python(tmp_path)
    (tmp_path / "data_batch_1").write_bytes(pickle.dumps({"data": PIXELS, "labels": [10**5000] * COUNT}, 2))
    with pytest.raises(ValueError, match=r"data_batch_1 is corrupt: .* integers of 64 bits"):
        cifar10.load(tmp_path)


# -- crafted pickles ----------------------------------------------------------------------------


class CallWhenUnpickled:
    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def crafted(path):
    """A pickle that creates a file at `path` if it is loaded by the pickle module."""
    command = f"touch {path}"
    return {
        "os.system": pickle.dumps({"data": CallWhenUnpickled(os.system, command)}, 2),
        "eval": pickle.dumps(CallWhenUnpickled(eval, f"open({str(path)!r}, 'w').close()"), 4),
        "after the data": pickle.dumps(
            {"data": PIXELS, "labels": LABELS.tolist(), "more": CallWhenUnpickled(os.system, command)}, 2
        ),
        "by hand": b"cos\nsystem\n(S'" + command.encode() + b"'\ntR.",
        "INST": b"(S'" + command.encode() + b"'\nios\nsystem\n.",
        "OBJ": b"(cos\nsystem\nS'" + command.encode() + b"'\no.",
        "NEWOBJ": b"\x80\x02cnumpy\nndarray\n)\x81.",
        "extension": b"\x80\x02\x82\x01.",
        "persistent": b"Pname\n.",
        "set": b"\x80\x04\x8f(K\x01\x90.",
        "getattr": b"cbuiltins\ngetattr\n(cnumpy\nndarray\nS'tofile'\ntR.",
        "dotted": b"\x80\x04\x8c\x05numpy\x8c\x0endarray.tofile\x93.",
        "numpy function": b"cnumpy\nload\n(S'x'\ntR.",
    }


@pytest.mark.parametrize("kind", crafted("x"))
def test_a_crafted_pickle_runs_nothing(short_files, tmp_path, kind):
    write_python(tmp_path)
    marker = tmp_path / "ran"
    (tmp_path / "data_batch_1").write_bytes(crafted(marker)[kind])
    with pytest.raises(ValueError, match=r"data_batch_1 is refused: it (names|contains) .*nothing of it was run"):
        cifar10.load(tmp_path)
    assert not marker.exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"c_codecs\nencode\n}S'x'\nK\x01sb.", "it asks to change a function"),
        (b"cnumpy\nndarray\n}S'values'\nK\x01sb.", "it asks to change a type"),
        (b"\x80\x02})" + b"\x85" * 1_000_000 + b"K\x01s.", "tuples within tuples"),
        (b"\x80\x02}K\x01\x85K\x01\x86\x85K\x01s.", "tuples within tuples"),  # the dict {(((1,), 1),): 1}
    ],
    ids=["function", "class", "deep-key", "mixed-key"],
)
def test_pickles_that_would_change_or_end_the_process_are_refused(short_files, tmp_path, content, message):
    (tmp_path / "batch").write_bytes(content)
    with pytest.raises(ValueError, match=f"batch is refused: .*{message}"):
        cifar10._read_python(tmp_path / "batch")


@pytest.mark.parametrize(
    "opcode",
    [b"K\x01r\xff\xff\xff\x0f", b"\x96" + bytes(5) + b"\x01\0\0", b"\x8b\xff\xff\xff\x7f"],
    ids=["memo", "byte-array", "integer"],
)
def test_memory_is_not_allocated_by_sizes_that_a_pickle_declares(short_files, tmp_path, opcode):
    """A memo index, a byte array of 1 TB, an integer of 2 GB: declared, but not in the file."""
    tracemalloc.start()
    (tmp_path / "batch").write_bytes(b"\x80\x05" + opcode + b".")
    with pytest.raises(ValueError, match="batch is"):
        cifar10._read_python(tmp_path / "batch")
    assert tracemalloc.get_traced_memory()[1] < 1 << 20
    tracemalloc.stop()


def test_other_text_encodings_are_refused(short_files, tmp_path):
    write_python(tmp_path)
    (tmp_path / "data_batch_1").write_bytes(b"c_codecs\nencode\n(Vabc\nVrot13\ntR.")
    with pytest.raises(ValueError, match=r"refused.*rot13"):
        cifar10.load(tmp_path)


def test_the_pickle_module_would_run_the_crafted_pickles(tmp_path):
    """Otherwise the tests above could not fail."""
    marker = tmp_path / "ran"
    for kind in ("os.system", "by hand", "eval"):
        pickle.loads(crafted(marker)[kind])
        assert marker.exists()
        marker.unlink()


def test_bytes_that_do_not_fill_their_shape_are_refused():
    dtype = pickles._Dtype("u1")
    for shape, fortran, expected in (
        ((2, 3), False, [[0, 1, 2], [3, 4, 5]]),
        ((2, 3), True, [[0, 2, 4], [1, 3, 5]]),
        ((7,), False, None),
        (("x",), False, None),
    ):
        array = pickles._from_buffer(bytes(range(6)), dtype, shape, "F" if fortran else "C")
        values = array.values()
        assert (None if values is None else values.tolist()) == expected
    for state in (None, (1, (6,), pickles._Dtype("u2"), False, bytes(6)), ("1", (6,), dtype, False, bytes(6)), (1,)):
        array.__setstate__(state)
        assert array.values() is None
