"""A program that each rank runs: python program.py HOW DIR [SHARDS]. Trains the small net in a run directory."""

import os
import signal
import sys
import time

import numpy as np

from gpuconv import to_numpy
from gpuconv.data import Augmentation, Loader, Normalization
from gpuconv.losses import SoftmaxCrossEntropy
from gpuconv.parallel import MPI
from gpuconv.training import Trainer, flat_sums
from tests.training import small

TIME_LIMIT = {"hangs": 3.0, "sleeps": 3.0}  # seconds; others get more, as they may compile kernels


class At:
    """Does something after a step."""

    def __init__(self, step, do):
        self.step, self.do = step, do

    def on_step(self, trainer, record):
        if trainer.steps == self.step:
            self.do(trainer)


def fail(trainer):
    raise OSError("the disk is on fire")


def on_last(do):
    return lambda trainer: do(trainer) if trainer.ranks.rank == trainer.ranks.size - 1 else None


def stop_process(number):
    return lambda trainer: os.kill(os.getpid(), number)


def expect_rank_0(trainer):
    assert trainer.ranks.rank == 0


def change(trainer):
    trainer.net["fc1"]["bias"][...] += 1


class Writes(At):
    only_on_rank_0 = True


HOW = {
    "drifts": on_last(change),
    "stops": on_last(lambda trainer: trainer.stop("enough")),
    "interrupted": on_last(stop_process(signal.SIGTERM)),
    "fails": on_last(fail),
    "hangs": on_last(lambda trainer: time.sleep(600)),
    "sleeps": on_last(stop_process(signal.SIGSTOP)),
    "dies": on_last(stop_process(signal.SIGKILL)),
}


def main(how, directory, shards="0"):
    ranks = MPI(TIME_LIMIT.get(how, 100.0))
    differs = ranks.rank == 1 and how.removeprefix("other-")
    device = "emulated" if how == "emulated" else "numpy"
    if how == "bucketed":
        flat_sums.BUCKET = 100
    net = small.net().to(device)
    if differs == "weights":
        net["fc1"]["bias"][...] = 1
    trainer = Trainer(
        net,
        "sgd:momentum=0.9" if how == "sharded" else "sgd",
        lr=0.02 if differs == "settings" else 0.05,
        metrics=["confusion"],
        loss=SoftmaxCrossEntropy(weight=(1, 5, 0.25), ignore_index=1) if how == "weighted" else "softmax",
        parallel=ranks,
        shards=int(shards) or None,
        sync_batch_norm=how.startswith("synchronized"),
        shard_optimizer=how in ("sharded", "mixed", "weighted"),
        **({"clip": 0.1, "ema": 0.9} if how in ("clipped", "sharded") else {"accumulate": 2} if how == "mixed" else {}),
        precision=how if how in ("float16", "bfloat16") else None,
    )
    data = small.images(count=20, seed=7 if differs == "data" else 0)
    like = dict(device=device, dtype=net.dtype)
    augmentation = Augmentation(mixup=0.5) if how == "mixed" else None
    loader = Loader(data, 8, normalization=Normalization([50.0], [60.0]), augmentation=augmentation, **like)
    held_out = Loader(small.images(9, seed=5), 2, normalization=loader.normalization, shuffle=False, **like)
    history = trainer.fit(
        [*loader.epoch(0)] if how == "batches" else loader,
        epochs=3,
        validation=held_out,
        run_dir=directory,
        resume=how.endswith("resumed"),
        metrics_every=2,
        progress=False,
        checkpoint_every=1,
        callbacks=[Writes(1, expect_rank_0), *([At(4, HOW[how])] if how in HOW else [])],
    )
    weights = b"".join(np.array(to_numpy(value)).tobytes() for value in net.state_dict().values())
    everyone = ranks.gather((weights, history, trainer.stop_reason))
    assert all(each == everyone[0] for each in everyone)
    if ranks.rank == 0:
        print("steps", trainer.steps, trainer.stop_reason, "sent", ranks.sent)


if __name__ == "__main__":
    main(*sys.argv[1:])
