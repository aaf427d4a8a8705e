"""What trains each net well: the settings that a run has when none are given."""

from __future__ import annotations

from typing import Any

from gpuconv.names import lookup

DEFAULT = {
    "epochs": 10,
    "batch_size": 64,
    "optimizer": "sgd:momentum=0.9,nesterov=true,weight_decay=5e-4",
    "lr": 0.05,
    "schedule": "one-cycle",
    "augment": "none",
    "loss": "softmax",
    "precision": "float32",
}

# The recipe of Keller Jordan's "94% on CIFAR-10 in 3.29 Seconds on a Single GPU" (arXiv:2404.00498) with the Muon
# optimizer, as his public airbench94_muon has it. Its rates are for a loss summed over a batch of 2000 and for scores
# divided by 256 out of weights of standard deviation 1; here the loss is the mean, so a rate of SGD is 2000 times as
# large and a decay 2000 times as small, and the net divides by 9, so its head has weights of 9 / 256 and its rate is
# (9 / 256)^2 as large. What a step does to the scores is the same. Muon's step knows no such factors.
_NORMS = "sgd:lr=106,momentum=0.85,nesterov=true,weight_decay=3.7736e-5"  # 0.053 * 2000, 0.004 / 0.053 / 2000
_HEAD = "sgd:lr=1.6562,momentum=0.85,nesterov=true,weight_decay=2.4152e-3"  # 0.67 * 2000 * (9 / 256)^2, 0.004 / lr
_MUON = "muon:lr=0.24,momentum=0.6,nesterov=true,newton_schulz=3"

# By name; whatever is not said is as in DEFAULT. Those of a net's own name are what it is trained with when no recipe
# is named, but airbench94's, which is for that net and batches of 2000. digits-net's was chosen on held-out parts of
# the training images, never on the test's.
RECIPES: dict[str, dict[str, Any]] = {
    "default": {},
    "digits-net": {"model": "digits-net", "epochs": 30, "augment": "shift:1", "loss": "softmax:label_smoothing=0.1"},
    "airbench94": {
        "data": "cifar10:data",
        "model": "airbench94",
        "epochs": 8,
        "batch_size": 2000,
        "lr": 1.0,
        "schedule": "linear",
        "optimizer": f"filters -> {_MUON}; conv1.bias -> {_NORMS} @ linear:3; norm*.bias -> {_NORMS}; * -> {_HEAD}",
        "augment": "alternating-flip,shift:2,reflect",
        "loss": "softmax:label_smoothing=0.2",
        "whiten": 5000,
        "tta": "mirror+shift",
    },
}
OF_NETS = ("digits-net",)

# The net that a kind of data gets when none is named.
NET_OF_DATA = {"digits": "digits-net"}


def get(model: str | None, data: str, name: str | None = None) -> dict[str, Any]:
    """The recipe of a name; without one the net's own, or, where model is None too, that of the kind of data's net.

    Raises ValueError for an unknown name; the nearest known one is named.
    """
    chosen = {} if name is None else lookup("recipe", name, RECIPES)
    model = model or chosen.get("model") or NET_OF_DATA.get(data, "tiny-vgg")
    own = RECIPES[model] if name is None and model in OF_NETS else {}
    return DEFAULT | own | chosen | {"model": model}
