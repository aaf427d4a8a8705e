"""A mutation run leaves no process behind, and refuses numbers of mutants or processes below 1."""

import argparse
import os
import signal
import time

import pytest

from tools.mutation.campaign import Mutant, campaign, parser

MUTANTS = [Mutant.of("a.py", "x = 1\n", 0, 1, "y")]


def test_ctrl_c_ends_the_mutants_that_still_run(tmp_path):
    started = tmp_path / "pid"

    def judge(mutant):
        started.write_text(str(os.getpid()))
        time.sleep(1)  # until the campaign waits
        os.kill(os.getppid(), signal.SIGINT)
        time.sleep(60)
        return "survived", ""

    options = argparse.Namespace(recheck=False, processes=1, verbose=False)
    assert campaign(MUTANTS, {}, judge, options) == []
    with pytest.raises(ProcessLookupError):
        os.kill(int(started.read_text()), 0)


@pytest.mark.parametrize("words", [["--sample", "0"], ["--sample", "-3"], ["--processes", "0"], ["--processes", "two"]])
def test_numbers_below_1_are_refused(words, capsys):
    with pytest.raises(SystemExit):
        parser("a run", processes=2).parse_args(words)
    assert f"expected a whole number of at least 1, received '{words[1]}'" in capsys.readouterr().err
