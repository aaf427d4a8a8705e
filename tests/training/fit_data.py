"""Images in the forms that the tests of accepted and refused data share, and a run of `fit` on them."""

from __future__ import annotations

from gpuconv.data import Normalization
from gpuconv.training import Trainer
from tests import toy_run

DATA = toy_run.images()
NORMALIZATION = Normalization.from_dataset(DATA)
FLOATS = NORMALIZATION(DATA.images)


def fit(train, epochs=2, net=None, **options):
    trainer = Trainer(toy_run.net() if net is None else net, "adam", lr=0.01, seed=3)
    trainer.fit(train, epochs=epochs, batch_size=5, progress=False, **options)
    return trainer
