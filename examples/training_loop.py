"""A training loop of your own, with batches, loss, update and schedule by hand, for what `Trainer` does not offer."""

import numpy as np

import gpuconv as gc
from gpuconv.layers import BatchNorm, Conv2D, Flatten, Input, Linear, MaxPool2D, ReLU

EPOCHS, BATCH, RATE = 8, 64, 1e-2


def main() -> None:
    train, test = gc.data.load("digits")
    normalization = gc.data.Normalization.from_dataset(train)
    loader = gc.data.Loader(train, BATCH, normalization=normalization, shuffle=True, seed=1)
    net = gc.Sequential(
        [
            Input((8, 8, 1)),
            Conv2D(24, 3, padding=1, bias=False),
            BatchNorm(),
            ReLU(),
            MaxPool2D(2),
            Flatten(),
            Linear(10),
        ],
        seed=1,
    )
    net.normalization = normalization
    loss_of = gc.losses.get("softmax")
    optimizer = gc.training.Adam(lr=RATE)

    for epoch in range(EPOCHS):
        optimizer.lr = RATE * (1 - epoch / EPOCHS)
        losses: list[float] = []
        for images, labels in loader.epoch(epoch):
            scores = net.forward(images, training=True)
            loss, dscores = loss_of(scores, labels)
            net.zero_grad()
            net.backward(dscores, input_grad=False)
            optimizer.step(net.params(), net.grads())
            losses.append(float(loss))
        print(f"epoch {epoch + 1}: loss {np.mean(losses):.3f}")

    right = net.predict(test.images).argmax(axis=1) == test.labels
    print(f"test accuracy {right.mean():.1%}")
    assert right.mean() > 0.9


if __name__ == "__main__":
    main()
