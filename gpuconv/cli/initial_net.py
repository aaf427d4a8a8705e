"""The net with which a run begins."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gpuconv.cli.run_settings import Settings
    from gpuconv.data import Dataset, Normalization, Samples
    from gpuconv.layers.sequential import Sequential


def initial_net(
    settings: Settings, train: Dataset | Samples, device: str, begun: bool = False
) -> tuple[Sequential, Normalization]:
    """The net of these settings with its initial weights, and the normalization of its images.

    begun: whether a checkpoint will be loaded, which already includes the effect of --weights and --whiten."""
    from gpuconv import models
    from gpuconv.cli import nets
    from gpuconv.data import Normalization
    from gpuconv.training import trained_net

    net: Sequential = nets.build(
        settings.model, input_shape=train.image_shape, classes=len(train.classes), seed=settings.seed
    ).to(device)
    normalization = Normalization.from_dataset(train)
    if settings.weights and not begun:
        trained_net.load_weights(settings.weights, net)
    if settings.whiten and not begun:
        models.whiten(net, normalization(train.first(settings.whiten), net.dtype))
    return net, normalization
