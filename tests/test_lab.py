"""The lab: a user's kernel file in place of the shipped one."""

import pytest

from gpuconv import lab, ops
from gpuconv.backends.cuda.runtime import source
from gpuconv.cli import main
from gpuconv.profiling import launches
from gpuconv.verify import DTYPES
from gpuconv.verify.run import to_device

RIGHT = lab.template("max_pool2d")
WRONG = RIGHT.replace("takes_lead(value, leader)", "value >= leader")  # ties go to the last


@pytest.fixture
def my_pool(tmp_path):
    path = tmp_path / "my_pool.cu"
    path.write_text(RIGHT)
    return path


def run(*arguments, capsys):
    status = main(["lab", *map(str, arguments)])
    captured = capsys.readouterr()
    return status, captured.out + captured.err


@pytest.mark.kernels
@pytest.mark.parametrize("op", ops.__all__)
def test_every_case_of_an_op_runs_the_kernel_file_of_the_op(op, monkeypatch):
    """All dtypes are tried. A case that runs another kernel would say nothing about the user's file."""
    monkeypatch.setattr(lab, "verify", lambda chosen, dtypes, device: files_of(chosen, dtypes))
    file = source.resolve(lab.shipped_file(op))
    files_by_case = dict(lab.check(file, op, "emulated", DTYPES))
    assert files_by_case
    assert [name for name, files in files_by_case.items() if file not in files] == []


def files_of(chosen, dtypes):
    """The kernel files of each case and dtype that launches anything."""
    for case in chosen:
        for dtype in dtypes:
            if dtype in case.dtypes:
                arrays, options = case.arguments(dtype)
                arguments = [to_device(a, "emulated") for a in arrays]
                options = {name: to_device(value, "emulated") for name, value in options.items()}
                with launches.record_launches(execute=False) as launched:
                    getattr(ops, case.op)(*arguments, **options)
                if launched:
                    yield f"{case.name} {dtype}", {launch.kernel.module.path for launch in launched}


@pytest.mark.kernels
@pytest.mark.parametrize("op", ["conv2d", "conv2d_relu", "conv2d_wgrad", "linear_dgrad"])
def test_every_case_of_an_algorithm_runs_the_kernel_file_of_the_algorithm(op, monkeypatch):
    monkeypatch.setattr(lab, "verify", lambda chosen, dtypes, device: files_of(chosen, dtypes))
    file = source.resolve(lab.shipped_file(op, "mma-64x64"))
    assert file.name.endswith("_mma.cu")
    files_by_case = dict(lab.check(file, op, "emulated", DTYPES, "mma-64x64"))
    in_tf32 = set() if op == "conv2d_relu" else {"float32"}
    assert {name.split()[-1] for name in files_by_case} == {"float16", "bfloat16"} | in_tf32
    assert [name for name, files in files_by_case.items() if file not in files] == []


@pytest.mark.kernels
def test_cases_that_the_algorithm_does_not_serve_are_left_out(tmp_path, monkeypatch):
    """wgmma-2x128x128 serves only numbers of channels and filters that are multiples of 8."""
    path = tmp_path / "my_conv.cu"
    path.write_text(lab.template("conv2d", "wgmma-2x128x128"))
    listed = lab.cases_of("conv2d", "wgmma-2x128x128", ("tiny",))
    monkeypatch.setattr(lab, "cases_of", lambda *_: listed)
    (row,) = lab.check(path, "conv2d", "emulated", "bfloat16", "wgmma-2x128x128")
    assert 0 < len(row.outcomes) < len(listed)
    assert all(outcome.passed for outcome in row.outcomes)
    for outcome in row.outcomes:
        x, w, *_ = outcome.case.arguments("bfloat16")[0]
        assert x.shape[-1] % 8 == w.shape[0] % 8 == 0


@pytest.mark.slow
def test_lab_checks_the_algorithm_named_on_the_command_line(tmp_path, capsys):
    path = tmp_path / "my_linear.cu"
    options = ["--op", "linear", "--algo", "mma-64x64"]
    assert main(["lab", *options, "--template"]) == 0
    path.write_text(capsys.readouterr().out.replace("fprop(y, ", "y[0] = round_to<DTYPE>(1000.0f); return; fprop(y, "))
    status, output = run(path, *options, "--device", "emulated", "--dtype", "bfloat16", capsys=capsys)
    assert status == 1
    assert "in place of conv2d_fprop_mma.cu" in output
    assert "result[0, 0] is 1000" in output
    status, output = run(path, *options, "--device", "emulated", "--dtype", "float64", capsys=capsys)
    assert status == 2
    assert "mma-64x64 has cases only in float16, bfloat16, float32, received float64" in output
    assert "relu has no algorithms" in run(path, "--op", "relu", "--algo", "mma-64x64", capsys=capsys)[1]
    assert "did you mean 'mma-64x64'" in run(path, "--op", "linear", "--algo", "mma-64x65", capsys=capsys)[1]


@pytest.mark.kernels
def test_float16_is_also_checked_with_the_users_file(tmp_path, capsys):
    path = tmp_path / "my_linear.cu"
    text = lab.template("linear").splitlines()
    at = next(number for number, line in enumerate(text) if line.startswith("    fprop("))
    text[at] = "    if (blockIdx.x == 0 && threadIdx.x == 0) y[0] = round_to<DTYPE>(1000.0f);"
    path.write_text("\n".join(text))
    status, output = run(path, "--op", "linear", "--device", "emulated", "--dtype", "float16", capsys=capsys)
    assert status == 1
    assert "result[0, 0] is 1000" in output


def test_the_template_passes(my_pool, capsys):
    status, output = run(my_pool, "--op", "max_pool2d", "--device", "emulated", "--dtype", "float32", capsys=capsys)
    assert status == 0
    assert "PASS" in output
    assert "not timed: a kernel's speed" in output


def test_a_wrong_kernel_is_reported_with_its_smallest_failing_case(my_pool, capsys):
    my_pool.write_text(WRONG)
    status, output = run(my_pool, "--op", "max_pool2d", "--device", "emulated", "--dtype", "float32", capsys=capsys)
    assert status == 1
    assert "smallest failing case" in output
    assert "not timed: the kernel's results are wrong" in output


@pytest.mark.kernels
def test_a_compile_error_points_into_the_file(my_pool, capsys):
    text = my_pool.read_text().replace("takes_lead(value, leader)", "takes_lead(value, leadr)")
    my_pool.write_text(text)
    line = text[: text.index("leadr")].count("\n") + 1
    status, output = run(my_pool, "--op", "max_pool2d", "--device", "emulated", "--dtype", "float32", capsys=capsys)
    assert status == 1
    assert f"my_pool.cu:{line}:" in output


def test_the_shipped_kernel_is_restored_afterwards(my_pool, capsys):
    my_pool.write_text(WRONG)
    run(my_pool, "--op", "max_pool2d", "--device", "emulated", "--dtype", "float32", capsys=capsys)
    assert main(["verify", "--op", "max_pool2d", "--device", "emulated", "--tier", "tiny", "--dtype", "float32"]) == 0


def test_a_rewritten_file_is_compiled_again(my_pool):
    """In a notebook a file is often rewritten under the same name within one session."""
    passed = []
    for text in (RIGHT, WRONG, RIGHT):
        my_pool.write_text(text)
        (row,) = lab.check(str(my_pool), "max_pool2d", "emulated", "float32")
        passed.append(all(outcome.passed for outcome in row.outcomes))
        assert row._repr_html_().count("<tr>") == 1 + len(row.outcomes)
    assert passed == [True, False, True]
    with pytest.raises(ValueError, match=r"numpy runs no kernels.*emulated"):  # the file would pass whatever it holds
        next(lab.check(my_pool, "max_pool2d", "numpy", "float32"))
    with pytest.raises(ValueError, match=r"numpy runs no kernels.*emulated"):
        next(lab.compare(my_pool, "max_pool2d", "numpy", "float32"))
    with pytest.raises(ValueError, match=r"unknown dtype 'int8'.*float32"):
        next(lab.check(my_pool, "max_pool2d", "emulated", "int8"))


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
def test_kernels_of_another_name_or_signature_are_refused_before_anything_runs(my_pool, change, message):
    my_pool.write_text(my_pool.read_text().replace(*change))
    with pytest.raises(ValueError, match=message):
        lab.check_signatures(my_pool, "max_pool2d")


def test_bad_input_is_refused(tmp_path, capsys):
    assert run("--op", "max_pool", capsys=capsys) == (2, "gpuconv: error: " + _unknown_op("max_pool", "max_pool2d"))
    assert run("--op", "relu", capsys=capsys)[0] == 2
    status, output = run(tmp_path / "no.cu", "--op", "relu", capsys=capsys)
    assert status == 2
    assert "no.cu: no such file" in output


def test_the_refusal_of_an_unknown_op_names_it_and_the_nearest_one(my_pool):
    with pytest.raises(ValueError, match="unknown op 'rellu'; did you mean 'relu'"):
        next(lab.check(my_pool, "rellu", "emulated", "float32"))


def test_timing_needs_at_least_two_repeats(my_pool):
    for repeats, error, message in (
        (1, ValueError, "repeats must be at least 2, received 1"),
        ("six", TypeError, "repeats must be an integer, received 'six'"),
    ):
        with pytest.raises(error, match=message):
            next(lab.compare(my_pool, "max_pool2d", "cuda", "float32", repeats=repeats))


def _unknown_op(name, near):
    return f"unknown op {name!r}; did you mean {near!r}? (known: {', '.join(ops.__all__)})\n"


def test_auto_is_resolved_and_arguments_are_checked_when_check_and_compare_are_called(my_pool, monkeypatch):
    monkeypatch.setattr(lab.backends, "resolve", lambda device: "emulated" if device == "auto" else device)
    (row,) = lab.check(my_pool, "max_pool2d", "auto", "float32")
    assert all(outcome.passed for outcome in row.outcomes)
    with pytest.raises(ValueError, match="numpy runs no kernels"):
        lab.check(my_pool, "max_pool2d", "numpy", "float32")
    with pytest.raises(ValueError, match="numpy runs no kernels"):
        lab.compare(my_pool, "max_pool2d", "numpy", "float32")
