"""For a lesson: a net on handwritten digits, its layers, a check of its gradients, and pictures of its activations."""

import tempfile
from pathlib import Path

import gpuconv as gc
from gpuconv.layers import Conv2D, Flatten, Input, Linear, MaxPool2D, ReLU
from gpuconv.summary import summary


def main() -> None:
    train, test = gc.data.load("digits")
    net = gc.Sequential([Input((8, 8, 1)), Conv2D(16, 3, padding=1), ReLU(), MaxPool2D(2), Flatten(), Linear(10)])
    print(summary(net))
    print(gc.checks.gradient_check(net, samples=8))
    history = gc.Trainer(net, "adam", lr=3e-3).fit(train, epochs=4, validation=0.1, test=test)

    image, truth = test.images[0], int(test.labels[0])
    scores = net.predict(image, softmax=True)
    figures = {
        "curves": gc.plots.curves(history),
        "activations": gc.plots.activations(image, net.activations(image), scores, test.classes, truth=truth),
        "filters": gc.plots.filters(net["conv1.weight"]),
    }
    with tempfile.TemporaryDirectory() as folder:  # use a folder of your own to keep them
        for name, figure in figures.items():
            print(f"{name}: {gc.plots.save(figure, Path(folder) / f'{name}.png').stat().st_size:,} bytes")

    found = gc.evaluate(net, test, metrics=["per-class", "top-3"])
    worst = found.metrics["per_class"].argmin()
    print(f"test accuracy {found.accuracy:.1%}, among the first three {found.metrics['top_3']:.1%}")
    print(f"the digit it knows least is {test.classes[worst]}")


if __name__ == "__main__":
    main()
