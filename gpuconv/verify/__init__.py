"""Verifies the ops of a device against the oracle in float64, over named case tiers, within derived error bounds."""

from gpuconv.verify.cases import cases
from gpuconv.verify.cases.case import DTYPES, TIERS, Case
from gpuconv.verify.run import Outcome, Row, run_case, verify

__all__ = ["DTYPES", "TIERS", "Case", "Outcome", "Row", "cases", "run_case", "verify"]
