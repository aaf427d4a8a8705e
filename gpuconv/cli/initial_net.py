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
    from gpuconv.cli import nets
    from gpuconv.data import Normalization

    net: Sequential = nets.build(
        settings.model, input_shape=train.image_shape, classes=len(train.classes), seed=settings.seed
    ).to(device)
    normalization = Normalization.from_dataset(train)
    if not begun:
        set_initial_weights(net, settings, train, normalization)
    return net, normalization


def set_initial_weights(
    net: Sequential, settings: Settings, train: Dataset | Samples, normalization: Normalization
) -> None:
    """Load the weights that --weights names, and set the first filters from training images, as --whiten asks."""
    from gpuconv import models
    from gpuconv.training import trained_net

    if settings.weights:
        trained_net.load_weights(settings.weights, net)
    if settings.whiten:
        models.whiten(net, normalization(train.first(settings.whiten), net.dtype))
