"""Training on several processes: the same bits as on one, files from one rank, stops and refusals on all ranks."""

import json

import pytest

from gpuconv.cli import main
from tests.parallel import mpiexec
from tests.parallel.runs import BYTES_PER_STEP, PROGRAM, TINY, files, run_program

pytestmark = pytest.mark.slow


def test_train_on_ranks_writes_the_files_of_one_process(tmp_path):
    options = [*TINY, "--shards", "4", "--augment", "flip", "--validation", "0.2", "--run-dir"]
    assert main(["train", "--device", "numpy", *options, str(tmp_path / "on1")]) == 0
    for ranks in (2, 4):
        done = mpiexec.train(ranks, *options, tmp_path / f"on{ranks}")
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("test accuracy") == 2  # in the table and in the result, printed by one rank
        assert files(tmp_path / f"on{ranks}") == files(tmp_path / "on1")


@pytest.mark.parametrize(
    "how",
    ["numpy", "emulated", "float16", "bfloat16", "batches", "clipped", "sharded", "bucketed", "mixed", "weighted"],
)
def test_two_ranks_write_the_files_of_one_process_in_every_variant_of_training(tmp_path, how):
    for ranks in (1, 2):
        run_program(ranks, how, tmp_path / str(ranks), shards=4)
    assert files(tmp_path / "1") == files(tmp_path / "2")


def test_a_run_is_resumed_with_another_number_of_ranks(tmp_path):
    run_program(1, "uninterrupted", tmp_path / "uninterrupted", shards=4)
    for before, after in ((2, 1), (1, 4)):
        folder = tmp_path / f"{before}-{after}"
        assert "steps 4 interrupted" in run_program(before, "interrupted", folder, shards=4)
        assert "steps 9 finished" in run_program(after, "resumed", folder, shards=4)
        assert files(folder) == files(tmp_path / "uninterrupted")


def bisected(tmp_path, *options):
    """The JSON document of `gpuconv bisect` for two runs on two ranks, which differ in their learning rates. Bisect
    itself runs on one process."""
    for name, rate in (("a", "0.05"), ("b", "0.5")):
        done = mpiexec.train(2, *TINY, *options, "--lr", rate, "--digests", "--run-dir", tmp_path / name)
        assert done.returncode == 0, done.stderr
    done = mpiexec.run(1, "-m", "gpuconv", "bisect", tmp_path / "a", tmp_path / "b", "--json")
    assert done.returncode == 1, done.stderr
    return json.loads(done.stdout)


def test_the_element_where_two_runs_of_two_ranks_differ_is_found_by_one_process(tmp_path):
    """With shards, one process gives the same bits as the ranks, so it can repeat their runs."""
    document = bisected(tmp_path, "--shards", "2")
    first = document["bits"]
    assert (first["step"], first["a"]["direction"], document["no_element"]) == (1, "update", None)
    assert first["element"]["differing"] == first["element"]["size"] == first["a"]["size"]
    assert first["element"]["a"] != first["element"]["b"]


def test_two_runs_of_two_ranks_without_shards_are_compared_but_not_repeated(tmp_path):
    document = bisected(tmp_path)
    assert (document["bits"]["step"], document["bits"]["element"]) == (1, None)
    assert f"from step 1 on, {tmp_path / 'a'} has other bits when repeated" in document["no_element"]
    assert "the run was recorded with other code or other ranks" in document["no_element"]


def test_two_ranks_send_each_parameter_once_a_step(tmp_path):
    """Each of R ranks sends 2 (R - 1) / R of the array, so each of two ranks sends all of it in each of 9 steps."""
    assert f"sent {9 * BYTES_PER_STEP}\n" in run_program(2, "numpy", tmp_path / "run", shards=4)


def test_batch_norm_over_all_ranks_sends_four_numbers_a_channel(tmp_path):
    """The net has four channels. Unlike in the test above, its running statistics are not sent."""
    sent = 9 * (4 * 411 + 4 * 8 + 4 * 4 * 4)
    assert f"sent {sent}\n" in run_program(2, "synchronized", tmp_path / "run")
    settings = json.loads((tmp_path / "run" / "run.json").read_text())["settings"]
    assert settings["sync_batch_norm"] is True
    assert "steps 9 finished" in run_program(2, "synchronized-resumed", tmp_path / "run")


def test_batch_norm_over_all_ranks_has_the_bits_of_one_process(tmp_path):
    for ranks in (1, 2, 4):
        run_program(ranks, "synchronized", tmp_path / str(ranks), shards=4)
        assert files(tmp_path / str(ranks)) == files(tmp_path / "1")


def test_a_stop_on_one_rank_stops_all(tmp_path):
    assert "steps 4 enough" in run_program(2, "stops", tmp_path / "run")


@pytest.mark.parametrize("ranks", [2, 3])
def test_a_run_on_ranks_without_shards_stores_no_number_of_shards(tmp_path, ranks):
    run_program(ranks, "numpy", tmp_path / "run")
    assert "shards" not in json.loads((tmp_path / "run" / "run.json").read_text())["settings"]


def test_two_ranks_without_shards_train_like_two_shards(tmp_path):
    run_program(2, "numpy", tmp_path / "ranks")
    run_program(1, "numpy", tmp_path / "shards", shards=2)
    by_ranks, by_shards = (files(tmp_path / name)["metrics.jsonl"] for name in ("ranks", "shards"))
    assert by_ranks == by_shards


@pytest.mark.parametrize("difference", ["settings", "data", "weights"])
def test_a_rank_that_differs_is_named_before_anything_is_written(tmp_path, difference):
    done = mpiexec.run(2, PROGRAM, f"other-{difference}", tmp_path / "run")
    assert done.returncode
    part = "weights" if difference == "weights" else "settings"  # the settings include the checksum of the data
    assert f"has other {part} than rank 0" in done.stderr
    assert "ParallelError: rank 1" in done.stderr
    assert not (tmp_path / "run").exists()


DIVIDE = "the number of ranks must divide that of shards, received"
REFUSED = {
    "3-ranks-4-shards": (3, ["--shards", "4"], f"{DIVIDE} 4 shards on 3 ranks"),
    "4-ranks-2-shards": (4, ["--shards", "2"], f"{DIVIDE} 2 shards on 4 ranks"),
    "small-last-batch": (4, ["--batch-size", "94"], "4 ranks need at least 4 images in each batch, and the last"),
    "graph": (2, ["--device", "emulated", "--graph"], "the exchange between ranks runs on the host; leave graph out"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_options_that_ranks_cannot_use_are_refused(tmp_path, case):
    ranks, options, message = REFUSED[case]
    done = mpiexec.train(ranks, *TINY, *options, "--run-dir", tmp_path / "run")
    assert done.returncode
    assert message in done.stderr
    assert not (tmp_path / "run").exists()
