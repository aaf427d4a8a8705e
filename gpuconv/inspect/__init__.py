"""Tools to look inside a net: how one value is computed, which parts of an image a class depends on, and where two runs
or devices begin to differ."""

from gpuconv.inspect.attribution_maps import grad_cam, occlusion, saliency
from gpuconv.inspect.bisect import Bisection, bisect
from gpuconv.inspect.bisect_runs import bisect_runs
from gpuconv.inspect.computed_by import Computed, Thread
from gpuconv.inspect.explain import Explanation, Term, explain

__all__ = [
    "Bisection",
    "Computed",
    "Explanation",
    "Term",
    "Thread",
    "bisect",
    "bisect_runs",
    "explain",
    "grad_cam",
    "occlusion",
    "saliency",
]
