"""Commands in processes of their own."""

from __future__ import annotations

import os
import subprocess
import sys
import time
import traceback

from gpuconv.cli import streams


def gpuconv(*arguments, **options):
    """A process of the command line with its output on pipes, unless `options` say otherwise."""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | options
    return subprocess.Popen([sys.executable, "-m", "gpuconv", *map(str, arguments)], text=True, **pipes)


def wait_for(path, seconds=60):
    """Wait until a file exists and has content."""

    def is_written():
        return path.exists() and path.stat().st_size > 0

    deadline = time.monotonic() + seconds
    while not is_written() and time.monotonic() < deadline:
        time.sleep(0.02)
    assert is_written(), f"{path} must exist and have content within {seconds} s"


def ending_of(work, status=0, prepare=lambda: None):
    """The exit status and stderr of a process that starts, works and ends like a command. The status is 99 if `work`
    raises."""
    read, write = os.pipe()
    child = os.fork()
    if not child:
        try:
            os.dup2(write, 2)
            prepare()
            streams.begin()
            work()
            os._exit(streams.end(status))
        except BaseException:
            os.write(2, traceback.format_exc().encode())
            os._exit(99)
    os.close(write)
    with open(read) as pipe:
        output = pipe.read()
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), output
