"""What trains each net well: the settings that a run has when none are given."""

from __future__ import annotations

from typing import Any

DEFAULT = {
    "epochs": 10, "batch_size": 64, "optimizer": "sgd:momentum=0.9,nesterov=true,weight_decay=5e-4", "lr": 0.05,
    "schedule": "one-cycle", "augment": "none", "loss": "softmax",
}  # fmt: skip

# By net; whatever is not said is as in DEFAULT. Chosen on held-out parts of the training images, never on the test's.
NETS: dict[str, dict[str, Any]] = {
    "digits-net": {"epochs": 30, "augment": "shift:1", "loss": "softmax:label_smoothing=0.1"},
}

# The net that a kind of data gets when none is named.
NET_OF_DATA = {"digits": "digits-net"}


def get(model: str | None, data: str) -> dict[str, Any]:
    """The recipe of a net (None: of the one for that kind of data)."""
    model = model or NET_OF_DATA.get(data, "tiny-vgg")
    return DEFAULT | NETS.get(model, {}) | {"model": model}
