"""The GPU gate: checks that need a GPU, for a machine that is available for thirty minutes. `python -m ci.gate --help`.

results     the result of a check: its status, reason and verdicts
verdict     the answer to a question, and how a child reports it
commands    children with time limits
run_parts   runs parts: their checks one after another, each with a time limit
record      gate.json and logs.zip, rewritten after every check
tree        the copy of the repository that the checks run in
start, correctness_checks, speed_checks, questions, hopper   the checks
experiments, hopper_kernels, unpooled   programs that the checks run in children
bench_command   the benchmark's command line and records, for the checks
parts       the parts, their checks and time limits
"""
