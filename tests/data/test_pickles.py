"""Pickles that would run code, change the process or use much memory are refused."""

import os
import pickle
import tracemalloc

import pytest

from gpuconv.data import cifar10, pickles
from tests.data.cifar10_files import LABELS, PIXELS, write_python


class CallWhenUnpickled:
    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def crafted(path):
    """Pickles, by what they contain. The pickle module would run the command in each pickle that COMMANDS names; the
    command creates a file at `path`."""
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


COMMANDS = ("os.system", "eval", "after the data", "by hand", "INST", "OBJ")


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
    """A pickle declares a huge memo index, a byte array of 1 TB or an integer of 2 GB, but its file is tiny."""
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


def test_the_pickle_module_would_run_the_crafted_commands(tmp_path):
    """Otherwise the tests above could not fail."""
    marker = tmp_path / "ran"
    for kind in COMMANDS:
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
