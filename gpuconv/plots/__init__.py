"""Pictures of a run: its curves, the activations of one image, the filters of the first layer.

Each function takes plain arrays and returns a matplotlib figure; `save` writes it. Matplotlib (the extra "plot") is
imported when the first picture is drawn. No figure uses pyplot or its global state, so drawing works in a thread, in a
notebook and without a display.
"""

from gpuconv.plots.bounds import differences, shares
from gpuconv.plots.canvas import NoMatplotlibError, PlotError, pixels
from gpuconv.plots.lines import curves, rates
from gpuconv.plots.saving import draw, save, target
from gpuconv.plots.tiles import activations, filters

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
