"""A program that each rank runs: python train_toy_run.py HOW DIR [SHARDS].

It trains the toy net in the run directory DIR; HOW is a variant of training or a fault.
"""

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
from tests import toy_run

TIME_LIMIT = {"hangs": 3.0, "is suspended": 3.0}  # seconds; others get more, as they may compile kernels


class AfterStep:
    """Calls `action` after a certain step."""

    def __init__(self, step, action):
        self.step, self.action = step, action

    def on_step(self, trainer, record):
        if trainer.steps == self.step:
            self.action(trainer)


def fail(trainer):
    raise OSError("the disk is on fire")


def on_last_rank(action):
    return lambda trainer: action(trainer) if trainer.ranks.rank == trainer.ranks.size - 1 else None


def send_signal(number):
    return lambda trainer: os.kill(os.getpid(), number)


def expect_rank_0(trainer):
    assert trainer.ranks.rank == 0


def change_a_bias(trainer):
    trainer.net["fc1"]["bias"][...] += 1


class OnlyOnRank0(AfterStep):
    only_on_rank_0 = True


FAULTS = {  # what the last rank does after step 4
    "drifts": on_last_rank(change_a_bias),
    "stops": on_last_rank(lambda trainer: trainer.stop("enough")),
    "interrupted": on_last_rank(send_signal(signal.SIGTERM)),
    "fails": on_last_rank(fail),
    "hangs": on_last_rank(lambda trainer: time.sleep(600)),
    "is suspended": on_last_rank(send_signal(signal.SIGSTOP)),
    "dies": on_last_rank(send_signal(signal.SIGKILL)),
}


def main(how, directory, shards="0"):
    ranks = MPI(TIME_LIMIT.get(how, 100.0))
    difference = how.removeprefix("other-") if ranks.rank == 1 else ""
    device = "emulated" if how == "emulated" else "numpy"
    if how == "bucketed":
        flat_sums.BUCKET = 100
    net = toy_run.net().to(device)
    if difference == "weights":
        net["fc1"]["bias"][...] = 1
    options = {}
    if how in ("clipped", "sharded"):
        options = {"clip": 0.1, "ema": 0.9}
    elif how == "mixed":
        options = {"accumulate": 2}
    trainer = Trainer(
        net,
        "sgd:momentum=0.9" if how == "sharded" else "sgd",
        lr=0.02 if difference == "settings" else 0.05,
        metrics=["confusion"],
        loss=SoftmaxCrossEntropy(weight=(1, 5, 0.25), ignore_index=1) if how == "weighted" else "softmax",
        parallel=ranks,
        shards=int(shards) or None,
        sync_batch_norm=how.startswith("synchronized"),
        shard_optimizer=how in ("sharded", "mixed", "weighted"),
        **options,
        precision=how if how in ("float16", "bfloat16") else None,
    )
    data = toy_run.images(count=20, seed=7 if difference == "data" else 0)
    batches = dict(device=device, dtype=net.dtype)
    augmentation = Augmentation(mixup=0.5) if how == "mixed" else None
    loader = Loader(data, 8, normalization=Normalization([50.0], [60.0]), augmentation=augmentation, **batches)
    held_out = Loader(toy_run.images(9, seed=5), 2, normalization=loader.normalization, shuffle=False, **batches)
    history = trainer.fit(
        [*loader.epoch(0)] if how == "batches" else loader,
        epochs=3,
        validation=held_out,
        run_dir=directory,
        resume=how.endswith("resumed"),
        metrics_every=2,
        progress=False,
        checkpoint_every=1,
        callbacks=[OnlyOnRank0(1, expect_rank_0), *([AfterStep(4, FAULTS[how])] if how in FAULTS else [])],
    )
    weights = b"".join(np.array(to_numpy(value)).tobytes() for value in net.state_dict().values())
    results = ranks.gather((weights, history, trainer.stop_reason))
    assert all(result == results[0] for result in results)
    if ranks.rank == 0:
        print("steps", trainer.steps, trainer.stop_reason, "sent", ranks.sent)


if __name__ == "__main__":
    main(*sys.argv[1:])
