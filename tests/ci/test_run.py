"""`.ci/run` runs the tests that the README tells everyone to run, refuses unknown options and stops at a failure."""

from __future__ import annotations

import re
import shutil
import subprocess

from tests.sources import ROOT


def test_ci_runs_the_test_command_of_the_readme_and_the_kernel_tests():
    (command,) = re.findall(r"^python -m pip install -e '\.\[test\]' && (.+)$", (ROOT / "README.md").read_text(), re.M)
    script = (ROOT / ".ci" / "run").read_text()
    assert re.search(rf"^tests {command}$", script, re.M)
    assert re.search(rf"^tests {command} -m kernels$", script, re.M)


def test_an_unknown_option_is_refused():
    done = subprocess.run([ROOT / ".ci" / "run", "--al"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (2, "usage: .ci/run [--all], received --al\n")


def test_a_failed_update_of_the_package_list_ends_the_run(tmp_path):
    for name in ("bash", "dirname", "mktemp", "rm"):
        (tmp_path / name).symlink_to(shutil.which(name))
    apt_get = tmp_path / "apt-get"
    apt_get.write_text("#!/bin/sh\nexit 3\n")
    apt_get.chmod(0o755)
    done = subprocess.run(
        [ROOT / ".ci" / "run"], env={"PATH": str(tmp_path)}, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (3, "\n== Debian's compiler and venv\n")
