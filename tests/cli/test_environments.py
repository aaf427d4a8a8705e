"""The command line in unusual environments: runs are completed all the same, and an error is one line.

Every test starts the commands as separate processes, so all of them are slow.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

DATA = "synthetic:n=64,size=8x8x3"
TRAIN = ["train", "--data", DATA, "--model", "seed-net", "--epochs", "1", "--device", "numpy", "--run-dir", "run"]
VERIFY = ["verify", "--device", "emulated", "--op", "relu", "--tier", "tiny", "--dtype", "float32"]


def run(folder, *arguments, flags=(), env=None):
    """Run a command in a folder. env: changes to the environment; None removes a variable."""
    environment = os.environ | {"OPENBLAS_NUM_THREADS": "1"} | (env or {})
    environment = {name: value for name, value in environment.items() if value is not None}
    command = [sys.executable, *flags, "-m", "gpuconv", *arguments]
    done = subprocess.run(
        command,
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=120,
        encoding="utf-8",
        errors="replace",
    )
    assert "Traceback" not in done.stderr, done.stderr
    return done


def stderr_of_a_run(folder, **options):
    """The stderr of a run, after checking that it trained, was tested, and left its files."""
    done = run(folder, *TRAIN, **options)
    assert done.returncode == 0, done.stderr
    assert re.fullmatch(r"test accuracy \d+\.\d\d%", done.stdout.splitlines()[-1])
    assert {"last.safetensors", "metrics.csv", "run.json"} <= {path.name for path in Path(folder, "run").iterdir()}
    tested = run(folder, "evaluate", "run", **options)
    assert tested.returncode == 0, tested.stderr
    assert tested.stdout.splitlines()[-1] == done.stdout.splitlines()[-1]
    return done.stderr


def error(done):
    assert done.returncode == 2, done.stdout + done.stderr
    assert re.fullmatch(r"gpuconv: error: [^\n]+\n", done.stderr), done.stderr
    return done.stderr


# --- options and variables of Python --------------------------------------------------------------


@pytest.mark.parametrize(
    ("flags", "env"),
    [
        (["-O"], {}),
        (["-OO"], {}),
        ([], {"PYTHONOPTIMIZE": "2"}),
        (["-W", "error"], {}),
        (["-bb"], {}),
        (["-I"], {}),
        (["-X", "dev"], {}),
        (["-X", "utf8=0"], {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0"}),
        ([], {"LC_ALL": "POSIX"}),
        ([], {"LC_ALL": "xx_YY.UTF-8"}),
        ([], {"PYTHONIOENCODING": "ascii"}),
        ([], {"PYTHONIOENCODING": "latin-1"}),
        ([], {"PYTHONDONTWRITEBYTECODE": "1", "PYTHONHASHSEED": "7"}),
    ],
    ids=lambda value: "_".join(value) if isinstance(value, list) else "_".join(map("=".join, value.items())),
)
def test_commands_run_under_the_options_of_python(flags, env, tmp_path):
    assert stderr_of_a_run(tmp_path, flags=flags, env=env) == ""
    for command in (["info"], ["kernels"], ["summary", "--run-dir", "run"], ["lab", "--op", "relu", "--template"]):
        assert run(tmp_path, *command, flags=flags, env=env).returncode == 0
    for command in ("train", "evaluate", "predict", "check", "verify", "profile", "data"):
        assert f"usage: gpuconv {command}" in run(tmp_path, command, "--help", flags=flags, env=env).stdout


# --- pictures ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("env", "matplotlibrc", "drawn"),
    [
        ({"MPLBACKEND": "module://matplotlib_inline.backend_inline"}, "", True),
        ({"MPLBACKEND": "no-such-backend"}, "", False),
        ({"MPLBACKEND": "TkAgg", "DISPLAY": ":99"}, "", True),
        ({"MPLBACKEND": "", "DISPLAY": None, "WAYLAND_DISPLAY": None}, "", True),
        ({"MPLCONFIGDIR": "/nonexistent/folder"}, "", True),
        ({}, "lines.linewidth: wide\nbackend: nonsense\nnot a line at all\n", True),
        ({"PATH": ""}, "text.usetex: True\n", False),
        ({}, "font.family: no-such-font\nsavefig.dpi: 9\nsavefig.format: bmp\n", None),
        ({}, "axes.prop_cycle: 7\nfont.size: -3\n", None),
    ],
    ids=[
        "notebook",
        "unknown-backend",
        "no-display",
        "no-backend-set",
        "no-config-folder",
        "wrong-lines",
        "no-latex",
        "unknown-font",
        "wrong-sizes",
    ],
)
def test_unusual_settings_of_matplotlib_do_not_end_a_run(env, matplotlibrc, drawn, tmp_path):
    pytest.importorskip("matplotlib")
    if matplotlibrc:
        (tmp_path / "matplotlibrc").write_text(matplotlibrc)
        env = env | {"MATPLOTLIBRC": str(tmp_path / "matplotlibrc")}
    output = stderr_of_a_run(tmp_path, env=env)
    if drawn is not None:
        assert (tmp_path / "run/curves.png").exists() == drawn
        assert (output.count("no curves.png: ") == 1) == (not drawn)


def test_a_broken_font_cache_does_not_end_a_run(tmp_path):
    pytest.importorskip("matplotlib")
    env = {"MPLCONFIGDIR": str(tmp_path / "config")}
    (tmp_path / "first").mkdir()
    stderr_of_a_run(tmp_path / "first", env=env)
    caches = list((tmp_path / "config").glob("fontlist*.json"))
    assert caches
    for number, content in enumerate((b"{", b"\xff\x00", b'{"_version": 1}', b"")):
        for path in caches:
            path.write_bytes(content)
        (tmp_path / str(number)).mkdir()
        stderr_of_a_run(tmp_path / str(number), env=env)


def test_folders_in_place_of_pictures_are_reported_and_do_not_end_a_run(tmp_path):
    pytest.importorskip("matplotlib")
    for name in ("curves", "filters", "activations"):
        (tmp_path / f"run/{name}.png").mkdir(parents=True)
    output = stderr_of_a_run(tmp_path)
    for name in ("curves", "filters", "activations"):
        assert output.count(f"no {name}.png: run/{name}.png: exists and is not a regular file\n") == 1


# --- environment variables and file names --------------------------------------------------------


@pytest.mark.parametrize(
    "env",
    [
        {"HOME": None, "XDG_CACHE_HOME": None},
        {"HOME": "/nonexistent"},
        {"HOME": "/etc/passwd"},
        {"HOME": ""},
        {"TERM": None},
        {"TERM": "dumb"},
        {"COLUMNS": "0"},
        {"COLUMNS": "1", "LINES": "1"},
        {"COLUMNS": "wide"},
        {"TMPDIR": "/nonexistent"},
        {"TZ": "Mars/Phobos"},
        {"PYTHONPATH": "/nonexistent"},
        {"USER": None},
        {"OPENBLAS_NUM_THREADS": "many", "OMP_NUM_THREADS": "-3"},
    ],
    ids=lambda env: "_".join(f"{name}={value}" for name, value in env.items()).replace("/", "|"),
)
def test_a_run_survives_missing_and_nonsensical_environment_variables(env, tmp_path):
    stderr_of_a_run(tmp_path, env={"MPLCONFIGDIR": str(tmp_path / "config")} | env)
    assert run(tmp_path, "info", env=env).returncode == 0
    assert run(tmp_path, *VERIFY, env=env).returncode == 0


def test_a_progress_bar_that_cannot_be_drawn_does_not_end_a_run(tmp_path):
    """tqdm takes its options from the environment, some of them when it is imported."""
    for number, value in enumerate(("NCOLS=x", "MININTERVAL=soon", "FILE=x")):
        folder = tmp_path / str(number)
        folder.mkdir()
        env = dict([f"TQDM_{value}".split("=")])
        output = stderr_of_a_run(folder, env=env)
        done = run(folder, *VERIFY, env=env)
        assert done.returncode == 0
        for text in (output, done.stderr):
            assert re.fullmatch(r"(no progress bar: [^\n]+; tqdm reads the variables TQDM_\.\.\.\n)?", text)


NAMES = [b"caf\xe9", "caf\u00e9 \u2603".encode(), b"a\nb", b"two  spaces", b"-dash", b"quo\"te's", b"\x1b[31mred"]


@pytest.mark.parametrize("env", [{}, {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}], ids=["utf8", "C"])
@pytest.mark.parametrize("name", NAMES, ids=repr)
def test_commands_take_unusual_and_undecodable_file_names(name, env, tmp_path):
    image = pytest.importorskip("PIL.Image")
    word = os.fsdecode(name)
    folder = tmp_path / word
    for label in (b"c\xe9ts", b"dogs \x1b[31m"):
        (folder / word / os.fsdecode(label)).mkdir(parents=True)
        for number in range(4):
            image.new("RGB", (8, 8), (60 * number, 0, len(label))).save(
                folder / word / os.fsdecode(label) / os.fsdecode(b"%d\xff.png" % number)
            )
    image.new("RGB", (8, 8)).save(folder / f"{word}.png")
    template = run(folder, "lab", "--op", "relu", "--template").stdout
    (folder / f"{word}.cu").write_text(template)
    tiny = ["--data", f"folder:./{word},size=8x8", "--model", "seed-net", "--epochs", "1", "--device", "numpy"]
    profile = ["profile", "--model", "seed-net", "--steps", "1", "--no-peaks", "--device", "numpy"]
    accepted = [
        ["train", *tiny, f"--run-dir=./{word}-run"],
        ["train", "--resume", f"./{word}-run", "--device", "numpy"],
        ["evaluate", f"./{word}-run"],
        ["predict", f"./{word}.png", "--run-dir", f"./{word}-run", "--picture", f"./{word}-inside.png"],
        ["summary", "--run-dir", f"./{word}-run"],
        [*profile, "--trace", f"./{word}.json"],
        ["lab", f"./{word}.cu", "--op", "relu", "--device", "emulated", "--dtype", "float32"],
    ]
    for command in accepted:
        done = run(folder, *command, env=env)
        assert done.returncode == 0, (command, done.stderr)
        assert "\x1b" not in done.stdout, command
    refused = [
        ["train", "--model", word],
        ["train", "--data", word],
        ["train", "--data", f"folder:./{word}/none"],
        ["train", "--data", f"cifar10:./{word}"],
        ["train", "--device", word],
        ["train", "--schedule", word],
        ["train", "--augment", word],
        ["train", "--loss", word],
        ["train", "--optimizer", word],
        ["train", *tiny, f"--run-dir=./{word}.png/x"],
        ["evaluate", f"./{word}-none"],
        ["predict", f"./{word}-none.png", "--run-dir", f"./{word}-run"],
        ["predict", f"./{word}.png", "--run-dir", f"./{word}-run", "--picture", f"./{word}/none/x.png"],
        ["profile", "--trace", f"./{word}/none/x.json"],
        ["lab", f"./{word}-none.cu", "--op", "relu"],
        ["verify", "--op", word],
        ["kernels", "--file", word],
        ["summary", "--model", word],
        ["data", word, "--to", word],
        [word],
    ]
    for command in refused:
        assert "\x1b" not in error(run(folder, *command, env=env)), command


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_in_a_read_only_folder_train_is_refused_and_other_commands_run(tmp_path):
    tmp_path.chmod(0o500)
    assert "Permission denied" in error(run(tmp_path, *TRAIN))
    assert run(tmp_path, "info").returncode == 0
    assert run(tmp_path, *VERIFY).returncode == 0


def test_a_current_folder_that_was_removed_gives_no_traceback(tmp_path):
    gone = tmp_path / "gone"
    gone.mkdir()
    script = f'cd "{gone}" && rmdir "{gone}" && exec "$@"'
    for arguments in (["info"], ["summary", "--model", "seed-net"], TRAIN):
        command = ["bash", "-c", script, "bash", sys.executable, "-m", "gpuconv", *arguments]
        gone.mkdir(exist_ok=True)
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
        # Python may print a traceback of its own if it cannot start there.
        assert "gpuconv" not in done.stderr or "Traceback" not in done.stderr, done.stderr


# --- the C++ compiler ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cxx", "message"),
    [
        ("no-such-c++", "there is no program 'no-such-c++'"),
        ("no-ccache g++", "there is no program 'no-ccache'"),
        ("false", "false --version) does not run"),
        ("g++ '", "No closing quotation"),
        ("g++ --no-such-option", "--no-such-option"),
    ],
)
def test_an_invalid_cxx_gives_an_error_of_one_line(cxx, message, tmp_path):
    env = {"CXX": cxx, "GPUCONV_CACHE_DIR": str(tmp_path / "cache")}
    assert message in error(run(tmp_path, *VERIFY, env=env))
    assert message in run(tmp_path, "info", env=env).stdout
    assert message in error(run(tmp_path, *TRAIN, "--device", "emulated", env=env))
    assert not (tmp_path / "run").exists()


def test_a_compiler_that_starts_to_fail_gives_an_error_of_one_line(tmp_path):
    """The compiler compiles the runtime and then fails, as if the disk had become full."""
    script = tmp_path / "c++"
    script.write_text(
        '#!/bin/sh\ncase "$*" in *DDTYPE*|*DREAL*|*-DVECTOR*) echo "no space left" >&2; exit 1;; esac\nexec g++ "$@"\n'
    )
    script.chmod(0o755)
    env = {"CXX": str(script), "GPUCONV_CACHE_DIR": str(tmp_path / "cache")}
    done = run(tmp_path, *TRAIN, "--device", "emulated", env=env)
    assert "does not compile for the emulated device: no space left" in error(done)


def test_cxx_may_have_options_and_a_wrapper(tmp_path):
    env = {"CXX": "env LANG=C g++ -DNDEBUG", "GPUCONV_CACHE_DIR": str(tmp_path / "cache")}
    assert run(tmp_path, *VERIFY, env=env).returncode == 0
    assert "env LANG=C g++ -DNDEBUG" in run(tmp_path, "info", env=env).stdout


@pytest.mark.parametrize("name", ["SEED", "SANITIZE", "WORKERS"])
def test_an_invalid_setting_of_the_emulated_device_gives_an_error_of_one_line(name, tmp_path):
    env = {f"GPUCONV_EMULATOR_{name}": "nonsense"}
    assert f"GPUCONV_EMULATOR_{name} is 'nonsense'" in error(run(tmp_path, *VERIFY, env=env))
    assert f"GPUCONV_EMULATOR_{name} is 'nonsense'" in run(tmp_path, "info", env=env).stdout
    stderr_of_a_run(tmp_path, env=env)


@pytest.mark.parametrize("cache", ["/etc/passwd", "/proc/none", "/dev/null/x"])
@pytest.mark.parametrize("flags", [[], ["-W", "error"]], ids=["plain", "W-error"])
def test_a_cache_that_cannot_be_written_gives_a_warning(cache, flags, tmp_path):
    done = run(tmp_path, *VERIFY, env={"GPUCONV_CACHE_DIR": cache}, flags=flags)
    assert done.returncode == 0, done.stderr
    assert re.fullmatch(r"gpuconv: warning: gpuconv cannot keep kernels in its cache [^\n]+\n", done.stderr)
