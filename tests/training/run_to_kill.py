"""Trains the toy net in a run directory and dies at a given point.

    python -m tests.training.run_to_kill DIR WHAT NUMBER [resume]

WHAT is "step" (die after NUMBER steps), "sync" (die in call NUMBER of fsync on a file, with half of its bytes on the
disk) or "never". The process dies by SIGKILL, so that nothing is cleaned up.
"""

import os
import signal
import stat
import sys

from tests import toy_run
from tests.signal_after_step import SignalAfterStep


def die():
    os.kill(os.getpid(), signal.SIGKILL)


def die_at_sync(number):
    calls, sync = [], os.fsync

    def sync_or_die(handle):
        if stat.S_ISREG(os.fstat(handle).st_mode):
            calls.append(handle)
        if len(calls) == number:
            os.ftruncate(handle, os.fstat(handle).st_size // 2)
            die()
        sync(handle)

    os.fsync = sync_or_die


def main(directory, what, number, *resume):
    if what == "sync":
        die_at_sync(int(number))
    callbacks = [SignalAfterStep(int(number), signal.SIGKILL)] if what == "step" else []
    trainer = toy_run.trainer()
    toy_run.fit(
        trainer,
        epochs=4,
        test=toy_run.held_out(),
        run_dir=directory,
        resume=bool(resume),
        checkpoint_every=3,
        callbacks=callbacks,
    )
    print("finished", trainer.steps)


if __name__ == "__main__":
    main(*sys.argv[1:])
