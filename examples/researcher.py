"""A researcher's own layer, loss, schedule and metric, with early stopping on a part of the training images."""

import tempfile
from dataclasses import dataclass
from typing import Any

import numpy as np

import gpuconv as gc
from gpuconv.layers import Conv2D, Flatten, Input, Layer, Linear, MaxPool2D


@dataclass(eq=False, repr=False)
class Swish(Layer):
    """x * sigmoid(beta * x). The fields of the dataclass are what is saved."""

    beta: float = 1.0

    def forward(self, x: Any, training: bool = False) -> Any:
        s = 1 / (1 + np.exp(-self.beta * x))
        self.stash(x, s)
        return x * s

    def backward(self, dy: Any, *, input_grad: bool = True) -> Any:
        x, s = self.unstash()
        return dy * (s + self.beta * x * s * (1 - s)) if input_grad else None


def focal(scores: np.ndarray, labels: np.ndarray) -> tuple[Any, Any]:
    """Focal loss with gamma 1: -(1 - p) log p of the label's probability p, the mean over the batch."""
    p = np.exp(scores - scores.max(axis=1, keepdims=True))
    p /= p.sum(axis=1, keepdims=True)
    rows = np.arange(len(labels))
    right = p[rows, labels]
    slope = (np.log(right) - (1 - right) / right) * right  # dloss/dp * p
    dscores = -p * slope[:, None]
    dscores[rows, labels] += slope
    loss = ((right - 1) * np.log(right)).mean()
    return loss, dscores / len(labels)


def falling(step: int) -> float:
    return float(1 / (1 + step / 50))


class WorstClass:
    """The accuracy of the class that does worst, over all batches."""

    name = "worst_class"

    def __init__(self) -> None:
        self.right, self.seen = np.zeros(10), np.zeros(10)

    def update(self, scores: np.ndarray, labels: np.ndarray) -> None:
        self.right += np.bincount(labels, scores.argmax(axis=1) == labels, minlength=10)
        self.seen += np.bincount(labels, minlength=10)

    def result(self) -> float:
        return float((self.right / self.seen).min())


def trainer() -> gc.Trainer:
    layers = [Input((8, 8, 1)), Conv2D(16, 3, padding=1), Swish(1.5), MaxPool2D(2), Flatten(), Linear(10)]
    return gc.Trainer(gc.Sequential(layers), "adam", lr=5e-3, loss=focal, schedule=falling)


def main() -> None:
    check = gc.checks.gradient_check(Swish(1.5), input_shape=(4, 4, 3))
    print(check)
    assert check.passed
    train, test = gc.data.load("digits")
    with tempfile.TemporaryDirectory() as folder:
        options: dict[str, Any] = dict(run_dir=f"{folder}/run", validation=0.1, progress=False)
        first = trainer()
        first.fit(train, epochs=4, callbacks=[gc.training.EarlyStopping(patience=3)], **options)
        net = gc.load(f"{folder}/run", which="best")
    found = gc.evaluate(net, test, metrics=[WorstClass()])
    print(f"test accuracy {found.accuracy:.1%}, of the worst class {found.metrics['worst_class']:.1%}")
    assert [type(layer) for layer in net][2] is Swish


if __name__ == "__main__":
    main()
