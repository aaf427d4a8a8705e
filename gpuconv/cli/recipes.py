"""Recipes: settings that go together, and which of them are the defaults of a net."""

from __future__ import annotations

from gpuconv.names import lookup
from gpuconv.types import Record

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
# optimizer, as in his public airbench94_muon. Its rates are for a loss summed over a batch of 2000, and for scores
# divided by 256 with head weights of standard deviation 1. Here the loss is the mean, so SGD's rates are multiplied and
# decays divided by 2000. The net divides scores by 9, so head weights of standard deviation 9 / 256 would give the same
# scores: the head's rate is multiplied by (9 / 256)^2, and its decay divided by that. A step then changes the scores as
# in airbench94_muon. Muon's step is invariant to these factors.
_NORMS = "sgd:lr=106,momentum=0.85,nesterov=true,weight_decay=3.7736e-5"  # 0.053 * 2000, 0.004 / 0.053 / 2000
_HEAD = "sgd:lr=1.6562,momentum=0.85,nesterov=true,weight_decay=2.4152e-3"  # 0.67 * 2000 * (9 / 256)^2, 0.004 / lr
_MUON = "muon:lr=0.24,momentum=0.6,nesterov=true,newton_schulz=3"

# By name; missing settings are those of DEFAULT. digits-net is the default recipe of the net of that name; this recipe
# was chosen on held-out training images, never on test images. airbench94 is no default, because it is for
# batches of 2000.
RECIPES: dict[str, Record] = {
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
OF_NETS = ("digits-net",)  # the nets whose default recipe has their name

# The default net for a kind of data.
NET_OF_DATA = {"digits": "digits-net"}


def get(model: str | None, data: str, name: str | None = None) -> Record:
    """The recipe of this name, by default the net's; if model is None too, that of the data's default net.

    Raises ValueError for an unknown name; the message names the nearest known one.
    """
    chosen = {} if name is None else lookup("recipe", name, RECIPES)
    model = model or chosen.get("model") or NET_OF_DATA.get(data, "tiny-vgg")
    own = RECIPES[model] if name is None and model in OF_NETS else {}
    return DEFAULT | own | chosen | {"model": model}
