"""Numbers as colors: signed values, and shares of a bound."""

from __future__ import annotations

import numpy as np

DECADES = 6  # orders of magnitude above and below a bound that the colors distinguish


def scale_of(values: np.ndarray) -> float:
    """The magnitude that is drawn in full color: the 0.995 quantile of the finite ones, so that one outlier does not
    darken the rest, or their maximum if the quantile is 0; 1 if all are 0 or none is finite."""
    magnitudes = np.abs(values[np.isfinite(values)])
    if not magnitudes.size:
        return 1.0
    return float(np.quantile(magnitudes, 0.995)) or float(magnitudes.max()) or 1.0


def signed_colors(values: np.ndarray, bound: float) -> np.ndarray:
    """Signed values as RGB: -bound is light blue, 0 the dark background, +bound light amber; NaN is magenta."""
    stops = np.array(
        [
            [0.85, 0.96, 1],
            [0.26, 0.66, 0.92],
            [0.1, 0.28, 0.45],
            [0.085, 0.1, 0.135],
            [0.5, 0.28, 0.08],
            [1, 0.66, 0.26],
            [1, 0.95, 0.8],
        ]
    )
    at = np.linspace(-1, 1, len(stops))
    unit = np.clip(values / bound, -1, 1)
    colors = np.stack([np.interp(unit, at, stops[:, channel]) for channel in range(3)], axis=-1)
    colors[np.isnan(values)] = (1, 0, 1)
    return colors.astype(np.float32)


def share_colors(shares: np.ndarray) -> np.ndarray:
    """Shares of a bound as RGB: dark at 0, blue up to the bound, amber above it, lighter with each order of
    magnitude."""
    with np.errstate(divide="ignore"):
        orders = np.clip(np.log10(shares) / DECADES, -1, 1)
    above, below = orders, 1 + orders  # each from 0 (faintest) to 1 (lightest)
    faintest = 0.3  # clearly lighter than the background
    signed = np.where(shares > 1, faintest + (1 - faintest) * above, -faintest - (1 - faintest) * below)
    signed = np.where(shares > 0, signed, 0)
    return signed_colors(signed, 1.0)
