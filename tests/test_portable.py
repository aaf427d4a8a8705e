"""What keeps the sources from depending on the platform: encodings that are said, and imports that exist everywhere."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SOURCES = sorted(path for folder in ("gpuconv", "bench", "ci") for path in (ROOT / folder).rglob("*.py"))
OF_UNIX = {"curses", "fcntl", "grp", "pty", "pwd", "resource", "syslog", "termios", "tty"}


def without_encoding(tree):
    """The lines of calls that read or write text in the encoding of the platform."""
    for call in ast.walk(tree):
        if not isinstance(call, ast.Call):
            continue
        name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
        said = {keyword.arg for keyword in call.keywords}
        if name in ("read_text", "write_text"):
            yield from [] if "encoding" in said else [call.lineno]
        elif isinstance(call.func, ast.Name) and name == "open":
            mode = ast.unparse(call.args[1]) if len(call.args) > 1 else "'r'"
            yield from [] if "b" in mode or "encoding" in said else [call.lineno]


def of_unix(tree):
    """The modules that are imported at the top though not every platform has them."""
    for node in tree.body:
        names = [each.name for each in node.names] if isinstance(node, ast.Import) else []
        names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        yield from OF_UNIX & {name.partition(".")[0] for name in names}


@pytest.mark.parametrize("found", [without_encoding, of_unix], ids=["text-without-encoding", "unix-only-imports"])
def test_no_source_depends_on_the_platform(found):
    lines = {path.name: [*found(ast.parse(path.read_bytes()))] for path in SOURCES}
    assert {name: each for name, each in lines.items() if each} == {}


def test_the_checks_see_what_they_look_for():
    wrong = "import fcntl\nopen('x')\nPath('x').read_text()\nPath('x').write_text('')\nopen('x', 'w')\nopen('x', 'rb')"
    assert [*without_encoding(ast.parse(wrong))] == [2, 3, 4, 5]
    assert [*of_unix(ast.parse(wrong))] == ["fcntl"]
