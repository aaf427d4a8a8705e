"""Ways to look inside a net: where one value comes from."""

from gpuconv.inspect.explain import Explanation, Term, explain

__all__ = ["Explanation", "Term", "explain"]
