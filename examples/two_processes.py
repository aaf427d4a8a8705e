"""One net trained by two processes, with the bits that one process gives. Needs `pip install '.[mpi]'`; run it with
``mpiexec -n 2 python examples/two_processes.py``."""

import numpy as np

import gpuconv as gc


def main() -> None:
    train, test = gc.data.load("digits")
    train = train.subset(slice(0, 512))

    # Every process runs this program. Each computes one of the two shards of a batch; then both make the same update.
    net = gc.models.build("digits-net", seed=0)
    trainer = gc.Trainer(net, "adam", lr=3e-3, shards=2, parallel="mpi")
    trainer.fit(train, epochs=2, progress=False)
    ranks = trainer.ranks
    found = gc.evaluate(net, test, ranks=ranks)
    if ranks.rank == 0:
        print(f"{ranks.size} processes: {100 * found.accuracy:.2f} % of {found.samples} images")

    # One process with two shards adds up in the same order.
    alone = gc.models.build("digits-net", seed=0)
    gc.Trainer(alone, "adam", lr=3e-3, shards=2).fit(train, epochs=2, progress=False)
    same = all(np.array_equal(value, net.params()[name]) for name, value in alone.params().items())
    if all(ranks.gather(same)) and ranks.rank == 0:
        print("every weight has the bits of one process")


if __name__ == "__main__":
    main()
