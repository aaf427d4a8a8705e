"""Checks: numerical gradients, the sanity checks of the CS231n notes, and a user's function against an operation."""

from gpuconv.checks.gradients import GradientCheck, GradientChecks, gradient_check
from gpuconv.checks.own_op import Comparison, Comparisons, compare
from gpuconv.checks.sanity_checks import SanityCheck, first_loss, overfits, regularization, sanity, update_ratio

regularisation = regularization  # the former name

__all__ = [
    "Comparison",
    "Comparisons",
    "GradientCheck",
    "GradientChecks",
    "SanityCheck",
    "compare",
    "first_loss",
    "gradient_check",
    "overfits",
    "regularization",
    "sanity",
    "update_ratio",
]
