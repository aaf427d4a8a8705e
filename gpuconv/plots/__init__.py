"""Pictures of runs: curves, the activations of one image, the filters of a layer, errors as shares of their bounds, and
the differences of two runs.

The drawing functions take arrays, or mappings of numbers, and return a matplotlib figure; `save` writes it. Matplotlib
(the extra "plot") is imported when the first picture is drawn. No figure uses pyplot or its global state, so drawing
works in a thread, in a notebook and without a display.
"""

from gpuconv.plots.activations import activations
from gpuconv.plots.canvas import NoMatplotlibError, PlotError, pixels
from gpuconv.plots.curves import curves, rates
from gpuconv.plots.differences import differences
from gpuconv.plots.filters import filters
from gpuconv.plots.saving import draw, save, target
from gpuconv.plots.shares import shares

__all__ = [
    "NoMatplotlibError",
    "PlotError",
    "activations",
    "curves",
    "differences",
    "draw",
    "filters",
    "pixels",
    "rates",
    "save",
    "shares",
    "target",
]
