"""The GPU gate: what only a GPU can tell, for one that is at hand for thirty minutes. `python -m ci.gate --help`.

results    what a check ends with, and the record
commands   children with time limits
schedule   parts and their checks, one after another, each in its box of time
tree       the copy of the repository that the checks run in
start, right, why, fast, questions, experiments   the checks
order      which parts there are, and how long each may take
"""
