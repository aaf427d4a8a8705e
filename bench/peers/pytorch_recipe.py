"""PyTorch's sides of a whole recipe, in channels_last: with and without torch.compile and a CUDA graph of each step.

As in Keller Jordan's public script, images stay on the device, where they are converted and padded once. A batch is one
gather of them. A step's rates lie in device memory, so that a captured step can be replayed. Weights are float32
under autocast, as on our side; Newton-Schulz runs in bfloat16 where the net does.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from bench.peers.pytorch import expect_timed, load, tensor, torch_device
from bench.peers.pytorch_net import module, parameters
from bench.peers.pytorch_steps import capture_step
from bench.recipe_steps import CHECKED_STEPS, Recipe
from bench.sides import PEER, Prepared, Side
from gpuconv.data import Dataset
from gpuconv.newton_schulz import NEWTON_SCHULZ
from gpuconv.training.optimizers import Muon

Update = Callable[[], None]


class Images:
    """A data set on the device, normalized, and its batches, (n, C, H, W) in channels_last."""

    def __init__(self, recipe: Recipe, data: Dataset, device: str, dtype) -> None:
        torch = self.torch = load()
        self.size, self.augmentation = min(recipe.settings.batch_size, len(data)), recipe.augmentation
        images = tensor(recipe.normalization(data.images), device).to(dtype)
        self.height, self.width = images.shape[2:]
        shift = self.augmentation.shift
        border = "reflect" if self.augmentation.border == "reflect" else "constant"
        self.padded = torch.nn.functional.pad(images, (shift,) * 4, border).permute(0, 2, 3, 1).contiguous()
        self.labels = tensor(data.labels.astype(np.int64), device)
        self.flipped = torch.rand(len(data), device=images.device) < 0.5
        self.rows, self.columns = (torch.arange(size, device=images.device) for size in (self.height, self.width))

    def shuffle(self):
        """The order of a new epoch, in which the images not flipped before are flipped."""
        self.flipped = ~self.flipped
        return self.torch.randperm(len(self.labels), device=self.labels.device)

    def batch(self, order, number: int):
        """The augmented images of a batch, and their labels."""
        index, shift = order[number * self.size : (number + 1) * self.size], self.augmentation.shift
        shifts = self.torch.randint(0, 2 * shift + 1, (2, len(index), 1), device=index.device)
        columns = self.torch.where(self.flipped[index, None], self.width - 1 - self.columns, self.columns)
        rows, columns = (self.rows + shifts[0])[:, :, None], (columns + shifts[1])[:, None, :]
        return self.padded[index[:, None, None], rows, columns].permute(0, 3, 1, 2), self.labels[index]


class Training:
    """The net, the update of each parameter group, and a training step."""

    def __init__(
        self, recipe: Recipe, device: str, steps: int, steps_per_epoch: int, compile_mode: str | None = None
    ) -> None:
        torch = load()
        self.half = recipe.entry.dtype != "float32"
        self.dtype = getattr(torch, recipe.entry.dtype)
        net = recipe.net()
        self.net = module(net).to(torch_device(device)).to(memory_format=torch.channels_last).train()
        self.forward, orthogonalize = self.net, orthogonal
        if compile_mode:
            torch.compiler.reset()
            self.forward = torch.compile(self.net, mode=compile_mode)
            orthogonalize = torch.compile(orthogonal, mode=compile_mode)
        self.kind, self.smoothing = torch.device(torch_device(device)).type, recipe.loss.label_smoothing
        groups, rates = recipe.rates(net, steps, steps_per_epoch)
        self.rates = torch.tensor(list(rates), dtype=torch.float32, device=torch_device(device))  # (steps, groups)
        self.lr = self.rates[0].clone()
        ours = parameters(net, self.net)
        self.updates = [
            _update(part.optimizer, [ours[name] for name in part.names], lr, self.dtype, orthogonalize)
            for part, lr in zip(groups.parts, self.lr)
        ]

    def step(self, x, y):
        torch = load()
        self.net.zero_grad(set_to_none=True)
        with torch.autocast(self.kind, self.dtype, enabled=self.half):
            scores = self.forward(x)
        loss = torch.nn.functional.cross_entropy(scores.float(), y, label_smoothing=self.smoothing)
        loss.backward()
        for update in self.updates:
            update()
        return loss.detach()

    def losses(self, x, y) -> np.ndarray:
        """The losses of repeated steps on one batch."""
        found = []
        for rates in self.rates:
            self.lr.copy_(rates)
            found.append(float(self.step(x, y)))
        return np.array(found)


def orthogonal(x, steps: int):
    """A matrix with its singular values brought near 1 (see `gpuconv.ops.muon_step`)."""
    a, b, c = NEWTON_SCHULZ
    tall = x.shape[0] > x.shape[1]
    x = x.T if tall else x
    x = x / (x.norm() + 1e-7)
    for _ in range(steps):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.T if tall else x


def _update(optimizer, params, lr, dtype, orthogonalize: Callable) -> Update:
    """The update of one of our optimizers, in PyTorch. lr: a tensor on the device."""
    torch = load()
    if not isinstance(optimizer, Muon):
        settings = {key: getattr(optimizer, key) for key in ("momentum", "nesterov", "weight_decay")}
        return torch.optim.SGD(params, lr=lr, fused=True, **settings).step  # type: ignore[no-any-return]
    velocities = [torch.zeros_like(p) for p in params]

    @torch.no_grad()  # type: ignore[untyped-decorator]
    def update() -> None:
        for p, v in zip(params, velocities):
            v.mul_(optimizer.momentum).add_(p.grad)
            momentum_step = p.grad + optimizer.momentum * v if optimizer.nesterov else v
            x = orthogonalize(momentum_step.reshape(len(p), -1).to(dtype), optimizer.newton_schulz).reshape(p.shape)
            p.mul_(math.sqrt(len(p)) / p.norm()).sub_(lr * x)

    return update


def sides(recipe: Recipe, device: str, compiled: bool) -> list[Side]:
    """Every variant of PyTorch that is timed."""
    chosen = recipe.settings
    batches = recipe.steps // chosen.epochs

    def variant(compile_it: bool, graph: bool) -> Callable[[], Prepared]:
        def prepare() -> Prepared:
            expect_timed(device, compiled, compile_it=compile_it, graph=graph)
            mode = "max-autotune-no-cudagraphs" if compile_it else None
            training = Training(recipe, device, CHECKED_STEPS, 1, mode)
            losses = training.losses(*checked_batch(recipe, device, training.dtype))
            training = Training(recipe, device, recipe.steps, batches, mode)
            images = Images(recipe, recipe.data, device, training.dtype)
            x, y = images.batch(images.shuffle(), 0)
            replay = capture_step(training.step, x, y)[0].replay if graph else None

            def call(_: int) -> None:
                for epoch in range(chosen.epochs):
                    order = images.shuffle()
                    for number in range(batches):
                        training.lr.copy_(training.rates[epoch * batches + number])
                        batch = images.batch(order, number)
                        if replay:
                            x.copy_(batch[0])
                            y.copy_(batch[1])
                            replay()
                        else:
                            training.step(*batch)

            return Prepared(call, lambda: [losses])

        return prepare

    variants = {
        "channels_last": (False, False),
        "compile": (True, False),
        "graph": (False, True),
        "compile graph": (True, True),
    }
    return [Side(PEER, name, variant(*switches)) for name, switches in variants.items()]


def checked_batch(recipe: Recipe, device: str, dtype):
    """The images of the correctness check, unaugmented, in one batch."""
    x = tensor(recipe.normalization(recipe.checked_data.images), device, channels_last=True)
    return x.to(dtype), tensor(recipe.checked_data.labels.astype(np.int64), device)
