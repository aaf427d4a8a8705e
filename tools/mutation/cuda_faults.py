"""Small faults to plant in CUDA text: one operator, constant, condition, name, call or assignment at a time."""

from __future__ import annotations

import re
from collections.abc import Iterator

from gpuconv.backends.cuda.runtime.source import COMMENT_OR_STRING
from tools.mutation.campaign import Mutant

_BOUNDS = re.compile(r"__launch_bounds__\s*\((?:[^()]|\([^()]*\))*\)|alignas\s*\([^()]*\)|static_assert\([^;]*;")

_REPLACEMENTS = {
    " < ": [" <= "],
    " <= ": [" < "],
    " > ": [" >= "],
    " >= ": [" > "],
    " == ": [" != "],
    " != ": [" == "],
    " + ": [" - "],
    " - ": [" + "],
    " * ": [" + "],
    " / ": [" * "],
    " % ": [" / "],
    " += ": [" = ", " -= "],
    " -= ": [" += "],
    " *= ": [" = "],
    " /= ": [" = "],
    " ^= ": [" = "],
    " |= ": [" = "],
    " << ": [" >> "],
    " >> ": [" << "],
    " & ": [" | "],
    " | ": [" & "],
    " ^ ": [" | "],
    " && ": [" || "],
    " || ": [" && "],
    " ? ": [" && false ? ", " || true ? "],
}
_OPERATOR = re.compile("|".join(re.escape(o) for o in sorted(_REPLACEMENTS, key=len, reverse=True)))

_PAIRS = [
    ("h", "w"),
    ("r", "s"),
    ("p", "q"),
    ("h0", "w0"),
    ("r0", "s0"),
    ("r1", "s1"),
    ("p1", "q1"),
    ("row", "column"),
    ("height", "width"),
    ("top", "left"),
    ("stride_h", "stride_w"),
    ("dilation_h", "dilation_w"),
    ("dy", "dx"),
    ("padded_h", "padded_w"),
    ("min", "max"),
    ("fmin", "fmax"),
    ("rows", "columns"),
    ("a", "b"),
    ("begin", "end"),
    ("c", "k"),
    ("line", "column"),
    ("BLOCK_M", "BLOCK_N"),
    ("THREAD_M", "THREAD_N"),
    ("THREADS_M", "THREADS_N"),
    ("threadIdx.x", "threadIdx.y"),
    ("blockIdx.x", "blockIdx.y"),
    ("true", "false"),
    ("all_channels", "all_filters"),
    ("c0", "c1"),
    ("c2", "c3"),
    ("k0", "k1"),
    ("high0", "high1"),
    ("low0", "low1"),
    ("beta1", "beta2"),
]
_PARTNER = {a: b for pair in _PAIRS for a, b in (pair, pair[::-1])}
_NAME = re.compile(r"\b(?:threadIdx\.[xy]|blockIdx\.[xy]|[A-Za-z_]\w*)\b")

_NUMBER = re.compile(
    r"(?<![\w.])(?:(?P<hex>0x[0-9a-fA-F]+)(?P<hex_end>[uUlL]*)(?![\w.])"
    r"|(?P<real>\d+\.\d*(?:e[-+]?\d+)?)(?P<real_end>f?)|(?P<whole>\d+)(?P<whole_end>[uUlL]*)(?![\w.]))"
)
_NEGATION = re.compile(r"(?:(?<=[(\[{])|(?<=[(,=?:] )|(?<=return ))[-!](?=[\w(])")
_INCREMENT = re.compile(r"(\+\+|--)(\w+)")
_CALL = re.compile(  # a call whose result nobody uses, such as a barrier, a fence or a wait
    r"(?:^[ \t]*|(?:[{)]|\belse) )(?P<it>(?!(?:if|for|while|switch|return)\b)[A-Za-z_][\w.:]*(?:<[^;(){}]*>)?"
    r"\([^;{}]*\);)",
    re.M,
)
_CONDITION = re.compile(r"\bif \(")
_STATEMENT = re.compile(
    r"^[ \t]*(?:if \([^\n]*\) |else |for \([^\n]*\) )?(?P<it>[A-Za-z_][\w.\[\]>-]* (?:[-+*/^|]?)= [^;\n]*;)", re.M
)


def mutants(file: str, text: str) -> Iterator[Mutant]:
    """Every mutant of a file's text, in the order of the text."""
    code, found = _code(text), set()
    for start, end, replacement in sorted(_faults(code)):
        if (start, end, replacement) in found or text[start:end] == replacement:
            continue
        found.add((start, end, replacement))
        yield Mutant.of(file, text, start, end, replacement)


def _code(text: str) -> str:
    """The text, in which blanks replace everything that the emulated device does not run. No offset changes."""
    text = COMMENT_OR_STRING.sub(_blank, text)
    lines: list[tuple[str, str]] = []
    opened, silent = [], []  # each open #if, and whether the emulated device skips its text
    for line in text.split("\n"):
        directive = line.strip()
        if directive.startswith("#if"):
            opened.append(directive)
            silent.append(directive == "#ifndef GPUCONV_EMULATOR")
        elif directive.startswith("#else") and "GPUCONV_EMULATOR" in opened[-1]:
            silent[-1] = not silent[-1]
        elif directive.startswith("#endif"):
            opened.pop()
            silent.pop()
        hidden = directive.startswith("#") or any(silent) or re.match(r"\s*template\b[^()]*$", line)
        lines.append((" " * len(line), line) if hidden else (line, line))
    return _BOUNDS.sub(_blank, "\n".join(shown for shown, _ in lines))


def _blank(match: re.Match[str]) -> str:
    return re.sub(r"[^\n]", " ", match[0])


def _faults(code: str) -> Iterator[tuple[int, int, str]]:
    for match in _OPERATOR.finditer(code):
        for other in _REPLACEMENTS[match[0]]:
            yield match.start(), match.end(), other
    for match in _NAME.finditer(code):
        if match[0] in _PARTNER:
            yield match.start(), match.end(), _PARTNER[match[0]]
    for match in _NUMBER.finditer(code):
        yield match.start(), match.end(), _another_number(match, _declares_array(code, *match.span()))
    for match in _NEGATION.finditer(code):
        yield match.start(), match.end(), ""
    for match in _INCREMENT.finditer(code):
        yield match.start(), match.end(), f"{match[2]} {match[1][0]}= 2"
    for pattern in (_CALL, _STATEMENT):
        for match in pattern.finditer(code):
            yield match.start("it"), match.end("it"), ";"
    for match in _CONDITION.finditer(code):
        end = _closing(code, match.end() - 1)
        for truth in ("true", "false"):
            yield match.end(), end, truth


def _another_number(match: re.Match[str], extent: bool) -> str:
    if match["hex"]:
        return f"{hex(int(match['hex'], 16) ^ 1)}{match['hex_end']}"
    if match["real"]:
        value = float(match["real"])
        return f"{value * (1 + 2.0**-6) if value else 1.0!r}{match['real_end']}"
    return f"{int(match['whole']) + (-1 if extent else 1)}{match['whole_end']}"


_EXTENT = re.compile(r"(?!\s*return\b)[^=]*[\w>] \w+(?:\[\w+\])*\[")


def _declares_array(code: str, start: int, end: int) -> bool:
    """Whether a number is an extent in a declaration, where one more would change nothing."""
    line = code[code.rfind("\n", 0, start) + 1 : start]
    return code[end] == "]" and _EXTENT.fullmatch(line) is not None


def _closing(code: str, opening: int) -> int:
    depth = 0
    for at in range(opening, len(code)):
        depth += {"(": 1, ")": -1}.get(code[at], 0)
        if not depth:
            return at
    raise ValueError("a parenthesis that nothing closes")
