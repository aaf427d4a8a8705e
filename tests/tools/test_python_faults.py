"""The faults that a mutation run plants in Python text."""

import ast

from tools.mutation.python_faults import mutants

TEXT = '''
def spread(values: "list[int]", top=3, *, clear=True) -> "int":
    """Not a fault: 1 + 1."""
    if values and not clear:
        raise ValueError(f"{1 + 1} is a message")
    self.total = max(values, key=len) * (top - 1)
    send(self.total)
    return values[1:] if top < 5 else None
'''


def test_every_kind_of_fault_is_planted():
    assert sorted(mutant.after for mutant in mutants("x.py", TEXT)) == sorted(
        [
            'def spread(values: "list[int]", top=4, *, clear=True) -> "int":',
            'def spread(values: "list[int]", top=3, *, clear=False) -> "int":',
            "if True:",
            "if values or not clear:",
            "if not clear:",
            "if values:",
            "if values and clear:",
            "pass",
            "pass",
            "self.total = max(values, key=len) + (top - 1)",
            "self.total = max(values, key=len) * (top + 1)",
            "self.total = max(values, key=len) * (top - 2)",
            "self.total = max(values) * (top - 1)",
            "self.total = min(values, key=len) * (top - 1)",
            "pass",
            "return values[1:] if True else None",
            "return values[1:] if False else None",
            "return values[1:] if top <= 5 else None",
            "return values[1:] if top < 6 else None",
            "return values[2:] if top < 5 else None",
        ]
    )


def test_unreachable_code_is_not_mutated():
    assert [mutant.after for mutant in mutants("x.py", "raise AssertionError\nraise NotImplementedError\n")] == ["pass"]


def test_a_text_with_a_fault_parses_to_another_tree_and_keeps_its_parentheses():
    texts = ("x = a and (b or c)\n", "x = -(a if b else c) ** 2\n", "if p:\n    pass\nelif not (a and b) or c: q\n")
    for text in texts:
        for mutant in mutants("x.py", text):
            changed = mutant.apply(text)
            assert ast.dump(ast.parse(changed)) != ast.dump(ast.parse(text))
    after = [mutant.after for mutant in mutants("x.py", "x = -(a or b)\n")]
    without_operator = [text for text in after if "or" not in text and "and" not in text]
    assert without_operator[0] == "x = -(b)"


def test_a_fault_knows_its_function_and_the_lines_of_its_statement():
    text = "class A:\n    def f(self):\n        return g(\n            1,\n        )\n"
    (mutant,) = mutants("x.py", text)
    assert (mutant.line, mutant.where, mutant.lines) == (4, "A.f", range(3, 6))
    assert mutant.apply(text).count("2") == 1


def test_a_key_survives_an_edit_of_the_comment():
    one, other = (
        next(mutants("x.py", f"def f(a):\n    return a + 1  # {comment}\n")) for comment in ("the first", "reworded")
    )
    assert one.before != other.before
    assert one.key == other.key
