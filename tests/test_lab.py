import pytest

from gpuconv import lab, ops
from gpuconv.backends.cuda.variants import MACROS
from gpuconv.cli import main


@pytest.fixture
def my_pool(tmp_path):
    path = tmp_path / "my_pool.cu"
    path.write_text(lab.template("max_pool2d"))
    return path


def run(*arguments, capsys):
    status = main(["lab", *map(str, arguments)])
    captured = capsys.readouterr()
    return status, captured.out + captured.err


def test_every_op_has_a_shipped_file():
    assert {lab.shipped_file(op) for op in ops.__all__} <= set(MACROS)


def test_the_template_passes(my_pool, capsys):
    status, said = run(my_pool, "--op", "max_pool2d", "--device", "emulated", "--dtype", "float32", capsys=capsys)
    assert status == 0
    assert "PASS" in said
    assert "not timed: only a GPU" in said


def test_a_wrong_kernel_is_told_by_its_smallest_failing_case(my_pool, capsys):
    my_pool.write_text(my_pool.read_text().replace("value > leader", "value >= leader"))  # ties go to the last
    status, said = run(my_pool, "--op", "max_pool2d", "--device", "emulated", "--dtype", "float32", capsys=capsys)
    assert status == 1
    assert "smallest failing case" in said
    assert "not timed: a kernel that is wrong" in said


def test_a_compile_error_points_into_the_file(my_pool, capsys):
    text = my_pool.read_text().replace("value > leader", "value > leadr")
    my_pool.write_text(text)
    line = text[: text.index("leadr")].count("\n") + 1
    status, said = run(my_pool, "--op", "max_pool2d", "--device", "emulated", "--dtype", "float32", capsys=capsys)
    assert status == 1
    assert f"my_pool.cu:{line}:" in said


def test_afterwards_the_shipped_kernel_is_back(my_pool, capsys):
    my_pool.write_text(my_pool.read_text().replace("value > leader", "value < leader"))
    run(my_pool, "--op", "max_pool2d", "--device", "emulated", "--dtype", "float32", capsys=capsys)
    assert main(["verify", "--op", "max_pool2d", "--device", "emulated", "--tier", "tiny", "--dtype", "float32"]) == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            ("max_pool2d_forward", "my_forward"),
            "must define max_pool2d_forward of max_pool2d.cu; it defines my_forward",
        ),
        (
            ("const DTYPE* x, uint32 count", "const DTYPE* x, int64 count"),
            r"max_pool2d_forward must take \(float64\* y",
        ),
    ],
)
def test_other_kernels_are_refused_before_anything_runs(my_pool, change, message):
    my_pool.write_text(my_pool.read_text().replace(*change))
    with pytest.raises(ValueError, match=message):
        lab.check_signatures(my_pool, "max_pool2d")


def test_bad_input(tmp_path, capsys):
    assert run("--op", "max_pool", capsys=capsys) == (2, "gpuconv: error: " + _unknown("max_pool", "max_pool2d"))
    assert run("--op", "relu", capsys=capsys)[0] == 2
    status, said = run(tmp_path / "no.cu", "--op", "relu", capsys=capsys)
    assert status == 2
    assert "no.cu: no such file" in said


def _unknown(name, near):
    return f"unknown op {name!r}; did you mean {near!r}? (known: {', '.join(ops.__all__)})\n"
