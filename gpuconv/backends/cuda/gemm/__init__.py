"""Products of implicit matrices (kernels/gemm.cuh). A launcher uses the modules in this order: `product` describes what
is multiplied, `plan` divides it into blocks, `tuner` chooses among plans, `launch` runs one, `reduce` adds up the
partial sums of split-K. `verdicts` says which algorithms a GPU has proved, and asks the `prover` about new ones.
"""
