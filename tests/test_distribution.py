"""The published files: a source distribution equal to the repository, and a wheel with the package and nothing else."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from typing import NamedTuple

import pytest

from tests.sources import ROOT

pytestmark = pytest.mark.slow  # a build takes seconds


class Built(NamedTuple):
    output: str
    sdist: set[str]
    wheel: zipfile.ZipFile

    @property
    def packed(self) -> set[str]:
        return {name for name in self.wheel.namelist() if ".dist-info/" not in name}


def sources() -> set[str]:
    """The repository's files, including new ones. In an unpacked source distribution, all of its files except those
    that a build created."""
    if (ROOT / ".git").exists():
        command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
        listed = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True, timeout=60)
        return {name for name in listed.stdout.splitlines() if (ROOT / name).exists()}
    made = re.compile(r"PKG-INFO|setup\.cfg|(build|\.?venv)/.*|(.*[./])?(egg-info|\w*cache\w*|\.hypothesis)/.*")
    files = (path.relative_to(ROOT).as_posix() for path in ROOT.rglob("*") if path.is_file())
    return {name for name in files if not made.fullmatch(name)}


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Built:
    """The source distribution, and the wheel that is built from it. A copy of the sources is built, so leftovers of
    earlier builds stay out."""
    pytest.importorskip("build")  # comes with gpuconv[test]; a machine that only runs the GPU gate need not have it
    folder = tmp_path_factory.mktemp("distribution")
    for name in sources():
        (folder / "source" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, folder / "source" / name)
    done = subprocess.run(
        [sys.executable, "-m", "build", "--no-isolation", "--outdir", folder, folder / "source"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"},
        timeout=300,
    )
    assert done.returncode == 0, done.stdout
    with tarfile.open(next(folder.glob("*.tar.gz"))) as archive:
        files = {member.name.partition("/")[2] for member in archive if member.isfile()}
    return Built(done.stdout, files, zipfile.ZipFile(next(folder.glob("*.whl"))))


def test_the_build_gives_no_warnings(built):
    assert [line for line in built.output.splitlines() if "warning" in line.lower()] == []


def test_the_source_distribution_equals_the_repository(built):
    made = {"PKG-INFO", "setup.cfg"}
    assert {name for name in built.sdist if not name.startswith("gpuconv.egg-info/")} - made == sources()


def test_the_wheel_holds_every_file_of_the_package(built):
    """Modules, kernels and their headers, the emulator's headers, data files, py.typed, and nothing else."""
    expected = {re.sub(r"^kernels/", "gpuconv/kernels/", name) for name in sources() - {"kernels/README.md"}}
    expected = {name for name in expected if name.startswith("gpuconv/")}
    assert {"gpuconv/py.typed", "gpuconv/data/digits.npz", "gpuconv/data/digits.md"} <= expected
    assert built.packed == expected


def test_the_wheel_has_the_command_and_the_licenses(built):
    named = {name.partition(".dist-info/")[2]: name for name in built.wheel.namelist()}
    assert "gpuconv = gpuconv.__main__:main" in built.wheel.read(named["entry_points.txt"]).decode()
    assert {"licenses/LICENSE", "licenses/gpuconv/data/digits.md"} <= set(named)


def test_the_wheel_has_the_version_of_the_package(built):
    from gpuconv import __version__

    metadata = next(name for name in built.wheel.namelist() if name.endswith(".dist-info/METADATA"))
    assert f"\nVersion: {__version__}\n" in built.wheel.read(metadata).decode()
