"""Products of implicit matrices (kernels/gemm.cuh), in the order in which a launcher uses the modules: `product`
describes what is multiplied, `plan` divides it into blocks, `tuner` chooses among plans, `launch` runs one, `reduce`
adds up the partial sums of split-K. `verdicts` says which algorithms a GPU has proved, and asks the `prover` about new
ones.
"""
