"""Proving the ops of a device: each against the oracle in float64, over named case tiers, in derived bounds."""

from gpuconv.verify.cases import DTYPES, TIERS, Case, cases
from gpuconv.verify.run import Outcome, Row, run_case, verify

__all__ = ["DTYPES", "TIERS", "Case", "Outcome", "Row", "cases", "run_case", "verify"]
