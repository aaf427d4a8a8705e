"""Former names, and names in British spelling, still work."""

from __future__ import annotations

import importlib


def test_names_in_british_spelling_still_work():
    from gpuconv import checks
    from gpuconv.data import Augmentation, Dataset
    from gpuconv.data.folder import FolderSamples

    assert checks.regularisation is checks.regularization
    assert Dataset.relabelled is Dataset.relabeled
    assert FolderSamples.relabelled is FolderSamples.relabeled
    assert Augmentation(hue=0.1).colours == Augmentation(hue=0.1).colors


def test_former_names_still_work():
    from gpuconv import activations, backends, batch_augmentation, live, parallel, problems
    from gpuconv.backends.cuda import emulator
    from gpuconv.data import Normalization
    from gpuconv.images import image_file, normalization
    from gpuconv.images.normalization import looks_unnormalized
    from gpuconv.layers import (
        Branches,
        Flatten,
        NormChain,
        Residual,
        ResidualNorm,
        Upsample,
        batch_parts,
        input_gradient,
    )
    from gpuconv.training import Trainer
    from gpuconv.verify import oracle

    assert Normalization.lacks is looks_unnormalized
    assert (parallel.launched, parallel.started) == (parallel.is_launched, parallel.launched_ranks)
    ranks = parallel.Ranks()
    assert (ranks.share(3), ranks.meet(), ranks.own("cuda:1"), ranks.first(lambda: 4)) == (3, None, "cuda:1", 4)
    assert importlib.import_module("gpuconv.data.image") is image_file
    assert importlib.import_module("gpuconv.data.normalization") is normalization  # as old pickles name it
    assert importlib.import_module("gpuconv.layers.part") is batch_parts
    assert importlib.import_module("gpuconv.layers.onto") is input_gradient
    assert batch_parts.place_of is batch_parts.part_in_elements
    assert batch_parts.Together is batch_parts.PartStates
    assert batch_parts.sums_over_parts is batch_parts.sum_function
    assert oracle.expect is oracle.expected_results
    assert (problems.ACTIVATIONS, problems.Activation) == (activations.ACTIVATIONS, activations.Activation)
    assert problems.BatchAugmentation is batch_augmentation.BatchAugmentation
    assert Trainer.diverged is Trainer.divergence_message
    assert Upsample.means is Upsample.pool_options
    assert NormChain.links is NormChain.can_link
    for kind in (Branches, Residual):
        assert kind.adding is kind.adds_to_sum
        assert kind.copied is kind.copied_branches
        assert kind.summed is kind.sum_gradients
    assert ResidualNorm.adding is ResidualNorm.adds_to_sum is ResidualNorm.adds_any_to_sum
    assert ResidualNorm.joined is ResidualNorm.joining_layer
    assert live.Sets is live.DataSplits
    assert backends.watched is backends.watch_calls
    assert backends.fixed_parts is backends.same_bits
    assert emulator.recorded is emulator.record_launches is emulator.capture_launches
    assert emulator.watched is emulator.watch_writes
    assert Flatten().slid((2, 3, 4)) == Flatten().as_sliding((2, 3, 4))
