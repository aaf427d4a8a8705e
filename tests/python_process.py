"""Runs Python code in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys


def python(code: str, **environment: str) -> str:
    """What the code prints. environment: variables to change."""
    env = {**os.environ, **environment}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, env=env)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()
