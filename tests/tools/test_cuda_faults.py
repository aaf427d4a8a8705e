"""The faults that a mutation run plants in CUDA text."""

from tools.mutation.cuda_faults import mutants

TEXT = """
template <int STAGES> struct Ring { };  // not a fault: 1 + 1
void copy(Ring& ring, int32 depth) {
    ring.next();
    if (depth < 8) fence();
    else say(depth);
    multiply<float, STAGES>(
        ring, depth);
    int32 first = begin(depth);
    sum += depth;
}
"""


def test_every_kind_of_fault_is_planted():
    assert sorted(mutant.after for mutant in mutants("x.cuh", TEXT)) == sorted(
        [
            ";",  # in place of ring.next(), multiply(...) and sum += depth
            ";",
            ";",
            "if (depth < 8) ;",
            "if (depth <= 8) fence();",
            "if (depth < 9) fence();",
            "if (true) fence();",
            "if (false) fence();",
            "else ;",
            "int32 first = end(depth);",
            "sum = depth;",
            "sum -= depth;",
        ]
    )


def test_a_call_over_two_lines_is_removed_as_a_whole():
    (fault,) = [mutant for mutant in mutants("x.cuh", TEXT) if mutant.before.startswith("multiply")]
    assert "multiply" not in fault.apply(TEXT)
    assert fault.apply(TEXT).count(";") == TEXT.count(";")


def test_code_that_the_emulated_device_does_not_run_is_not_mutated():
    text = "#ifdef GPUCONV_EMULATOR\nwait(1);\n#else\nwait(2);\n#endif\nwait(3);\n"
    assert {mutant.before for mutant in mutants("x.cuh", text)} == {"wait(1);", "wait(3);"}
    nested = "#if WIDE\nwait(0);\n#endif\n"
    text = text.replace("wait(1);\n", nested)
    assert {mutant.before for mutant in mutants("x.cuh", text)} == {"wait(0);", "wait(3);"}


def test_a_key_survives_an_edit_of_the_comment():
    one, other = (next(mutants("x.cuh", f"    if (a) go();  // {comment}\n")) for comment in ("the first", "reworded"))
    assert one.before != other.before
    assert one.key == other.key
