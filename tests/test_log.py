"""No module calls `print`, except those in MAY_PRINT. A run's messages are logged; only the command line shows them."""

from __future__ import annotations

import ast
import logging

from gpuconv.system import console
from gpuconv.text.plain_text import printable
from tests import toy_run
from tests.sources import ROOT

MAY_PRINT = (
    "cli/",  # the command line
    "system/console.py",  # its messages and progress bars
    "notices.py",  # its display of warnings
)


def test_no_module_of_the_library_prints():
    """The test finds only calls by the name `print`. `gpuconv.live.serve` may print through its argument `ready`, whose
    default is `print`."""
    for path in (ROOT / "gpuconv").rglob("*.py"):
        if path.relative_to(ROOT / "gpuconv").as_posix().startswith(MAY_PRINT):
            continue
        text = path.read_text(encoding="utf-8")
        for node in ast.walk(ast.parse(text)) if "print" in text else ():
            called = isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print"
            assert not called, f"{path}:{node.lineno}"


def test_messages_of_a_run_are_logged_and_not_printed(tmp_path, caplog, capfd, pictures):
    caplog.set_level(logging.INFO)
    run = tmp_path / "run"
    (run / "curves.png").mkdir(parents=True)  # a folder in place of the picture
    toy_run.fit(toy_run.trainer(), run_dir=run)
    assert capfd.readouterr() == ("", "")
    (record,) = caplog.records
    assert (record.name, record.levelname) == ("gpuconv.training.callbacks", "WARNING")
    assert record.getMessage().startswith("no curves.png: ")


def test_the_log_is_silent_unless_the_command_line_shows_it(capfd):
    logger = logging.getLogger("gpuconv.test")
    logger.warning("nobody listens")
    with console.log_on_stderr():
        logger.info("from %s\non", "INFO")
        logger.debug("more than anyone wants")
        logger.warning("\x1b[31m")
    logger.warning("nobody listens")
    assert capfd.readouterr().err == f"from INFO\non\n{printable(chr(27))}[31m\n"
    assert logging.getLogger("gpuconv").level == logging.NOTSET
