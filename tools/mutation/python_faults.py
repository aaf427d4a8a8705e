"""Small faults to plant in Python text, each in one operator, constant, condition, name, keyword or statement.

Messages, help texts, annotations and docstrings are not changed, nor is `raise AssertionError`, which marks
unreachable code.
"""

from __future__ import annotations

import ast
import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from tools.mutation.campaign import Mutant

_COMPARISONS = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
}
_OPERATORS = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Add,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult,
    ast.Mod: ast.FloorDiv,
    ast.Pow: ast.Mult,
    ast.LShift: ast.RShift,
    ast.RShift: ast.LShift,
    ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd,
    ast.BitXor: ast.BitOr,
}
_NAMES = {"min": "max", "any": "all", "ceil": "floor"}
_NAMES |= {other: name for name, other in _NAMES.items()}
_TEXT = ("help", "metavar", "repr")  # keywords that change only displayed text
_REMOVED = (ast.Raise, ast.Continue, ast.Break, ast.Delete, ast.AugAssign)


@dataclass(frozen=True)
class PythonMutant(Mutant):
    """lines: those of the statement with the fault; for a compound statement those of its head."""

    lines: range = range(0)


def mutants(file: str, text: str) -> Iterator[PythonMutant]:
    """Every mutant of a file's text."""
    tree = ast.parse(text)
    starts = [0]
    for line in text.splitlines(keepends=True):
        starts.append(starts[-1] + len(line))
    lines = text.splitlines()

    def offset(line: int, column: int) -> int:
        return starts[line - 1] + len(lines[line - 1].encode()[:column].decode())

    found = set()
    for statement, where in _statements(tree, ""):
        begin, stop = offset(statement.lineno, statement.col_offset), _stop(statement, offset)
        for node, replacement in _faults(statement):
            start, end = offset(node.lineno, node.col_offset), offset(node.end_lineno, node.end_col_offset)
            code = ast.unparse(replacement)
            if isinstance(replacement, ast.expr) and not _fits(text[begin:start], code, text[end:stop]):
                code = f"({code})"
            if (start, end, code) not in found:
                found.add((start, end, code))
                mutant = Mutant.of(file, text, start, end, code, where)
                yield PythonMutant(**vars(mutant), lines=range(statement.lineno, _head_end(statement) + 1))


def _fits(before: str, code: str, after: str) -> bool:
    """Whether an expression means the same without parentheses at its place in a statement."""
    end = "pass" if after.endswith(" ") else ""  # the head of a compound statement needs a body
    try:
        plain, inside = (ast.parse(f"{before.removeprefix('el')}{it}{after}{end}") for it in (code, f"({code})"))
    except SyntaxError:
        return False
    return ast.dump(plain) == ast.dump(inside)


def _stop(statement: ast.stmt, offset: Callable[[int, int], int]) -> int:
    """Where a simple statement, or the head of a compound one, ends."""
    body = getattr(statement, "body", None)
    if body:
        return offset(body[0].lineno, body[0].col_offset)
    return offset(statement.end_lineno, statement.end_col_offset)


def _statements(node: ast.AST, where: str) -> Iterator[tuple[ast.stmt, str]]:
    """Every statement below a node, with the name of its function or class."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            continue
        named = isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef))
        inner = ".".join(filter(None, (where, child.name))) if named else where
        if isinstance(child, ast.stmt):
            yield child, inner
        yield from _statements(child, inner)


def _head_end(statement: ast.stmt) -> int:
    body = getattr(statement, "body", None)
    return max(statement.lineno, body[0].lineno - 1) if body else statement.end_lineno or statement.lineno


def _faults(statement: ast.stmt) -> Iterator[tuple[ast.AST, ast.AST]]:
    """Pairs of a node and a replacement, for all nodes of a statement except those of nested statements."""
    if _removable(statement):
        yield statement, ast.Pass()
    if isinstance(statement, ast.AugAssign):
        yield statement, ast.Assign([statement.target], statement.value, lineno=0)
        if other := _OPERATORS.get(type(statement.op)):
            yield statement, _changed(statement, op=other())
    if isinstance(statement, (ast.If, ast.While)):
        # If the body is one statement that can be removed, removing it has the same effect as a false condition.
        redundant = len(statement.body) == 1 and _removable(statement.body[0]) and not statement.orelse
        yield from _constant_tests(statement.test, true=isinstance(statement, ast.If), false=not redundant)
    if not isinstance(statement, ast.Raise):
        for node in _expressions(statement):
            yield from ((node, other) for other in _replacements(node))
            for test in (node.test,) if isinstance(node, ast.IfExp) else getattr(node, "ifs", ()):
                yield from _constant_tests(test)


def _removable(statement: ast.stmt) -> bool:
    if isinstance(statement, ast.Assign):
        return isinstance(statement.targets[0], (ast.Attribute, ast.Subscript))
    if isinstance(statement, ast.Return):
        return statement.value is None
    if isinstance(statement, ast.Expr):
        return isinstance(statement.value, ast.Call)
    if isinstance(statement, ast.Raise) and isinstance(statement.exc, ast.Name):
        return statement.exc.id != "AssertionError"
    return isinstance(statement, _REMOVED)


def _constant_tests(test: ast.expr, *, true: bool = True, false: bool = True) -> Iterator[tuple[ast.AST, ast.AST]]:
    """A condition with its replacements by True and by False."""
    for truth in [True] * true + [False] * false:
        if not isinstance(test, ast.Constant):
            yield test, ast.Constant(truth)


def _expressions(statement: ast.stmt) -> Iterator[ast.AST]:
    """The expressions of a statement that are neither annotations nor text."""
    waiting: list[ast.AST] = [statement]
    while waiting:
        node = waiting.pop()
        for name, value in ast.iter_fields(node):
            if name in ("annotation", "returns") or (isinstance(node, ast.keyword) and node.arg in _TEXT):
                continue
            for child in value if isinstance(value, list) else [value]:
                if isinstance(child, ast.AST) and not isinstance(child, (ast.stmt, ast.JoinedStr, ast.ExceptHandler)):
                    waiting.append(child)
                    if hasattr(child, "lineno") or isinstance(child, ast.comprehension):
                        yield child


def _replacements(node: ast.AST) -> Iterator[ast.AST]:
    """The replacements for an expression."""
    match node:
        case ast.Compare(ops=[first, *rest]):
            yield _changed(node, ops=[_COMPARISONS[type(first)](), *rest])
        case ast.BoolOp(op=op, values=values):
            yield _changed(node, op=ast.Or() if isinstance(op, ast.And) else ast.And())
            for at in range(len(values)):
                rest = values[:at] + values[at + 1 :]
                yield rest[0] if len(rest) == 1 else _changed(node, values=rest)
        case ast.UnaryOp(op=ast.Not() | ast.USub(), operand=operand):
            yield operand
        case ast.BinOp(op=op) if type(op) in _OPERATORS:
            yield _changed(node, op=_OPERATORS[type(op)]())
        case ast.Constant(value=bool(value)):
            yield ast.Constant(not value)
        case ast.Constant(value=int(value)):
            yield ast.Constant(value + 1)
        case ast.Constant(value=float(value)):
            yield ast.Constant(2 * value or 1.0)
        case ast.Call(func=func, keywords=keywords):
            for at, keyword in enumerate(keywords):
                if keyword.arg and keyword.arg not in _TEXT:
                    yield _changed(node, keywords=keywords[:at] + keywords[at + 1 :])
            if isinstance(func, ast.Name) and func.id in _NAMES:
                yield _changed(node, func=ast.Name(_NAMES[func.id]))
            if isinstance(func, ast.Attribute) and func.attr in _NAMES:
                yield _changed(node, func=_changed(func, attr=_NAMES[func.attr]))


def _changed(node: ast.AST, **fields: object) -> ast.AST:
    other = copy.copy(node)
    for name, value in fields.items():
        setattr(other, name, value)
    return other
