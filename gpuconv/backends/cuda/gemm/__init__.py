"""Products of implicit matrices (kernels/gemm.cuh), in the order in which a launcher meets them: `product` says what is
multiplied, `plan` cuts it into blocks, `tuner` chooses among plans, `launch` runs one, `reduce` adds up a split depth.
"""
