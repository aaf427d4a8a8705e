"""The checks of the part "hopper", smallest pieces first: python -m ci.gate.hopper_kernels NAME --device cuda

k-major   products of one warpgroup with both operands K-major
mn-major  likewise with an operand, or both, MN-major
ring      a ring of stages between a producer and two consumers, by mbarriers
cluster   rings that the two blocks of a cluster fill for each other
fprop, dgrad, wgrad   each proves and times its direction's algorithms that no GPU has run, and describes wrong values

Prints a line for each case; after a case that fails, also the details that are needed to mend it. Status 0 if all pass,
1 if one fails, 4 if there is nothing to run, 130 if it is stopped.

warpgroup, ring, cluster, algorithms   the checks
wrong_values                  describes wrong results
printing                      the line of a case, its result, and the last line
"""

NOTHING = 4  # the status if there is nothing to run
