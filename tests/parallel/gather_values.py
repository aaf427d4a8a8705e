"""A program that torchrun starts: each rank prints its number and the values of all ranks."""

import sys

from gpuconv.parallel.tcp import TCP

ranks = TCP(60)
values = ranks.gather(10 * ranks.rank)
sys.stdout.write(f"{ranks.rank} {values}\n")  # one call, because both ranks write to the same pipe
