"""PyTorch's sides of a training step: eager, channels_last, compiled, and the whole step in a CUDA graph."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from bench.peers.pytorch import expect_timed, load, tensor, torch_device
from bench.peers.pytorch_net import module
from bench.sides import PEER, Prepared, Side
from bench.steps import MOST_GRAPHS, SGD, Step


def sides(step: Step, device: str, compiled: bool) -> list[Side]:
    """Every variant of PyTorch that is timed. Half precision is autocast over float32 weights, as usual in PyTorch."""

    def variant(channels_last: bool, compile_it: bool, graph: bool) -> Callable[[], Prepared]:
        def prepare() -> Prepared:
            torch = load()
            expect_timed(device, compiled, compile_it=compile_it, graph=graph)
            layout = torch.channels_last if channels_last else torch.contiguous_format
            net = module(step.net()).to(torch_device(device)).to(memory_format=layout).train()
            sets = [
                (tensor(images, device, channels_last=channels_last), tensor(labels, device))
                for images, labels in step.batches(device)
            ]
            trained = [p for p in net.parameters() if p.requires_grad]
            optimizer = torch.optim.SGD(trained, fused=True, **SGD)
            kind, half = torch.device(torch_device(device)).type, step.entry.dtype != "float32"
            cast = torch.autocast(kind, getattr(torch, step.entry.dtype), enabled=half)
            forward = net
            if compile_it:
                torch.compiler.reset()
                forward = torch.compile(net, mode="max-autotune-no-cudagraphs" if graph else "max-autotune")

            def once(x, y):
                optimizer.zero_grad(set_to_none=True)
                with cast:
                    loss = torch.nn.functional.cross_entropy(forward(x).float(), y)
                loss.backward()
                optimizer.step()
                return loss

            first = float(once(*sets[0]).detach())  # the loss of the untrained net
            results = [np.array(first)]
            if not graph:
                return Prepared(lambda number: once(*sets[number % len(sets)]), lambda: results)
            replays = [capture_step(once, *batch) for batch in sets[:MOST_GRAPHS]]
            return Prepared(lambda number: replays[number % len(replays)][0].replay(), lambda: results)

        return prepare

    variants = {
        "eager": (False, False, False),
        "channels_last": (True, False, False),
        "compile": (True, True, False),
        "graph": (True, False, True),
        "compile graph": (True, True, True),
    }
    return [Side(PEER, name, variant(*switches)) for name, switches in variants.items()]


def capture_step(once: Callable, x, y) -> tuple:
    """The step as a graph, and the objects that must live as long as the graph. The graph is captured after a warm-up
    on a side stream, as PyTorch's documentation requires."""
    torch = load()
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            once(x, y)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        once(x, y)
    return graph, once, x, y
