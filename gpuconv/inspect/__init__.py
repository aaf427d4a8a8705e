"""Tools to look inside a net: how one value is computed, and which parts of an image a class depends on."""

from gpuconv.inspect.explain import Computed, Explanation, Term, Thread, explain
from gpuconv.inspect.maps import grad_cam, occlusion, saliency

__all__ = ["Computed", "Explanation", "Term", "Thread", "explain", "grad_cam", "occlusion", "saliency"]
