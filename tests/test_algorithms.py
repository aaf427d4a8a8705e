"""The table of algorithms, refused names, the algorithms of layers, and those that a GPU has to prove first."""

from dataclasses import replace

import numpy as np
import pytest

from gpuconv import algorithms, asarray, backends, ops
from gpuconv.algorithms import ALGORITHMS
from gpuconv.backends import cpu
from gpuconv.backends.cuda.gemm import plan
from gpuconv.backends.cuda.gemm.product import Product
from gpuconv.dtypes import PRECISIONS, as_dtype
from gpuconv.layers import Conv2D, Flatten, Input, Layer, Linear, MaxPool2D, ReLU, Sequential, Sigmoid
from gpuconv.problems import DIRECTIONS, PLAIN, Conv2dProblem
from gpuconv.profiling import launches
from gpuconv.summary import rows
from tests.algorithm_table import with_algorithm

X, W = np.ones((2, 4, 4, 8), np.float32), np.ones((6, 3, 3, 8), np.float32)
DY, ROWS, WEIGHT = np.ones((2, 2, 2, 6), np.float32), np.ones((5, 8), np.float32), np.ones((6, 8), np.float32)
OPS = {
    "conv2d": ([X, W], {}),
    "conv2d_dgrad": ([DY, W], dict(input_shape=X.shape)),
    "conv2d_wgrad": ([DY, X], dict(kernel_size=3)),
    "linear": ([ROWS, WEIGHT], {}),
    "linear_dgrad": ([np.ones((5, 6), np.float32), WEIGHT], {}),
    "linear_wgrad": ([np.ones((5, 6), np.float32), ROWS], {}),
}
BFLOAT16 = as_dtype("bfloat16")
every_op = pytest.mark.parametrize("op", OPS)


def test_every_precision_has_algorithms_and_their_names_are_unique():
    for precision in PRECISIONS:
        names = [algorithm.name for algorithm in algorithms.serving(precision)]
        assert names
        assert len(set(names)) == len(names)
    assert {a for algorithm in ALGORITHMS for a in algorithm.precisions} == set(PRECISIONS)


def test_the_depthwise_algorithm_is_refused_in_words_that_fit_the_convolution():
    x, w = np.ones((1, 4, 4, 6), np.float32), np.ones((6, 3, 3, 1), np.float32)
    with pytest.raises(ValueError, match="'depthwise' stores only the output; it writes no mask, saved input or sums"):
        ops.conv2d_relu(x, w, groups=6, algo="depthwise")
    with pytest.raises(ValueError, match="'depthwise' serves convolutions in several groups of one channel each"):
        ops.conv2d_relu(x, np.ones((6, 3, 3, 6), np.float32), algo="depthwise")


@every_op
def test_names_are_checked_before_anything_is_computed(monkeypatch, op):
    arrays, options = OPS[op]
    received = []
    monkeypatch.setattr(getattr(cpu, ops.OPS[op].family), op, lambda *arguments, **named: received.append(named))
    with pytest.raises(ValueError, match=r"unknown algorithm 'simt-128x65'; did you mean 'simt-128x64'\?"):
        getattr(ops, op)(*arrays, **options, algo="simt-128x65")
    with pytest.raises(ValueError, match=r"'simt-128x64' does not serve float64; those that do: auto, simt-64x32$"):
        getattr(ops, op)(*[a.astype(np.float64) for a in arrays], **options, algo="simt-128x64")
    with pytest.raises(TypeError, match="algorithm is chosen by name, received int"):
        getattr(ops, op)(*arrays, **options, algo=3)
    with pytest.raises(TypeError, match="tf32=True multiplies float32 arrays, received float64"):
        getattr(ops, op)(*[a.astype(np.float64) for a in arrays], **options, tf32=True)
    with pytest.raises(TypeError, match="tf32 must be True or False, received 'yes'"):
        getattr(ops, op)(*arrays, **options, tf32="yes")
    assert received == []
    getattr(ops, op)(*arrays, **options, algo="SIMT_64x64", tf32=np.True_)
    assert [(named["algo"], named["tf32"]) for named in received] == [("simt-64x64", True)]


def test_a_launch_reports_its_algorithm():
    for algorithm in ALGORITHMS:
        for precision in algorithm.precisions:
            macros = {name: str(value) for name, value in algorithm.defines(precision).items()} | {"VECTOR_C": "1"}
            assert algorithms.algorithm_of_launch(f"conv2d_fprop_{algorithm.family}", macros) == algorithm.name
            assert algorithms.algorithm_of_launch("gemm_reduce_splits", macros) is None
    assert algorithms.algorithm_of_launch("relu_forward_simt", {"DTYPE": "float32"}) is None


# --- layers ------------------------------------------------------------------------------------


def a_net(algo="auto", device="emulated"):
    layers = [Input((6, 5, 3)), Conv2D(4, 3, stride=2, algo=algo), ReLU(), Flatten(), Linear(5, algo=algo)]
    return Sequential(layers, device=device)


def products_of_a_step(net, batch=7):
    """For each matrix-product kernel of a step, in order: its name, its algorithm, and whether it uses TF32."""
    x = asarray(np.ones((batch, 6, 5, 3), np.float32), net.device)
    with launches.record_launches() as launched:
        net.backward(net.forward(x, training=True))
    rows = [row for launch in launched for row in launches.table([launch])]
    return [(row["kernel"], row["algorithm"], "TF32" in row["macros"]) for row in rows if row["algorithm"]]


@pytest.mark.kernels
def test_layers_pass_their_choice_to_every_direction():
    directions = [f"conv2d_{d}_simt" for d in ("fprop", "fprop", "wgrad", "dgrad", "wgrad", "dgrad")]
    assert products_of_a_step(a_net("simt-64x64")) == [(d, "simt-64x64", False) for d in directions]
    net = a_net()
    for layer in net.walk():
        assert layer.tf32 is False
        layer.tf32 = True
    families = ("few_channels", *["mma"] * 5)  # the image has three channels; both families use tensor cores
    on_tensor_cores = [(d.replace("simt", family), True) for d, family in zip(directions, families)]
    assert [(kernel, tf32) for kernel, _, tf32 in products_of_a_step(net)] == on_tensor_cores


def test_the_algorithm_that_a_layer_reports_is_the_one_that_runs():
    for batch in (1, 7, 600):
        net = a_net()
        conv, fc = (net[name].algorithms(batch) for name in ("conv1", "fc1"))
        assert list(conv) == list(fc) == ["fprop", "dgrad", "wgrad"]
        used = [algorithm for _, algorithm, _ in products_of_a_step(net, batch)]
        assert used == [conv["fprop"], fc["fprop"], fc["wgrad"], fc["dgrad"], conv["wgrad"], conv["dgrad"]]
    assert net["relu1"].algorithms(7) == {}
    for name in ("conv1", "fc1"):
        with pytest.raises(ValueError, match="batch_size must be at least 1, received 0"):
            net[name].algorithms(0)
    assert a_net("simt-128x64")["conv1"].algorithms(7, "emulated") == dict.fromkeys(conv, "simt-128x64")
    assert a_net(device="numpy")["fc1"].algorithms(7) == {}
    assert backends.algorithms("numpy", Conv2dProblem.of(X.shape, W.shape), "float32") == {}


@pytest.mark.kernels
def test_a_fused_layer_reports_the_algorithm_that_runs():
    """The product of a convolution fused with a pool omits pixels outside of the windows, and has no split-K."""
    for batch in (1, 100):
        layers = [Input((13, 9, 1)), Conv2D(64, 1), ReLU(), MaxPool2D(2), Conv2D(8, 2), Sigmoid(), Flatten(), Linear(5)]
        net = Sequential(layers, device="emulated").fuse()
        x = asarray(np.ones((batch, 13, 9, 1), np.float32), "emulated")
        with launches.record_launches() as launched:
            net.backward(net.forward(x, training=True))
        used = [row["algorithm"] for launch in launched for row in launches.table([launch]) if row["algorithm"]]
        first, second, fc = (row.algorithms for row in rows(net, batch) if row.algorithms)
        backward = [layer[direction] for layer in (fc, second, first) for direction in ("wgrad", "dgrad")]
        assert used == [first["fprop"], second["fprop"], fc["fprop"], *backward]


def test_a_config_holds_the_algorithm_but_not_tf32():
    net = a_net("SIMT-64X64", "numpy")
    net["conv1"].tf32 = True
    config = net["conv1"].config()
    assert config["algo"] == "simt-64x64"
    assert "tf32" not in config
    assert Layer.from_config(config).algo == "simt-64x64"
    assert Layer.from_config({name: value for name, value in config.items() if name != "algo"}).algo == "auto"
    for make in (lambda algo: Conv2D(4, 3, algo=algo), lambda algo: Linear(4, algo=algo)):
        with pytest.raises(ValueError, match="unknown algorithm 'winograd'"):
            make("winograd")


def test_a_named_algorithm_runs_in_its_own_directions_and_auto_chooses_for_the_other_directions():
    for algo, dtype, direction in (("few_channels-256x64", "float32", "fprop"), ("mma-64x32", "bfloat16", "wgrad")):
        named, auto = (
            Sequential([Input((6, 6, 3)), Conv2D(8, 3, algo=name)], device="emulated", dtype=dtype)
            for name in (algo, "auto")
        )
        assert named[1].algorithms(8) == auto[1].algorithms(8) | {direction: algo}
        assert all(algorithm != "auto" for algorithm in named[1].algorithms(8).values())
        x = asarray(np.ones((8, 6, 6, 3)), "emulated", dtype)
        with launches.record_launches(execute=False) as recorded:
            named.backward(named.forward(x, training=True))
        launched = [row["algorithm"] for launch in recorded for row in launches.table([launch]) if row["algorithm"]]
        assert {*launched} == {*named[1].algorithms(8).values()}


# --- algorithms that a GPU has to prove first ---------------------------------------------------


def test_an_unproved_algorithm_is_never_the_cost_models_choice():
    """It may be named on the emulated device. The cost model never chooses it for "auto", and a product for which it
    has no kernel never receives it."""
    # At this rate, the cost model predicts almost no time for the new algorithm.
    free = replace(algorithms.find("mma-128x128", "bfloat16"), name="new-128x128", proved=False, rate=1e9, issued={})
    with with_algorithm(free, kernels=("conv2d_fprop",), capability=90, one_chip=True):
        fprop, dgrad = (Product(f"conv2d_{d}", 512, 512, 512, 1, BFLOAT16) for d in ("fprop", "dgrad"))
        for capability in (80, 90, 100, 120, algorithms.NEWEST):
            assert plan.plan(fprop, "auto", capability).algorithm.proved
            assert all(candidate.algorithm.proved for candidate in plan.candidates(fprop, capability))
            names = {candidate.algorithm.name for candidate in plan.unproved_plans(fprop, capability)}
            assert ("new-128x128" in names) == (capability in (90, algorithms.NEWEST)), capability
        assert "new-128x128" not in {candidate.algorithm.name for candidate in plan.unproved_plans(dgrad)}
        assert plan.plan(fprop, "new-128x128").algorithm.name == "new-128x128"
        with pytest.raises(
            ValueError, match=r"'new-128x128' needs a GPU of compute capability 9\.0, received .* 10\.0;"
        ):
            plan.plan(fprop, "new-128x128", 100)
        problem = Conv2dProblem.of((2, 8, 8, 64), (64, 3, 3, 64))
        names = [algorithms.for_convolution("new-128x128", problem, PLAIN, "bfloat16", d) for d in DIRECTIONS]
        assert names == ["new-128x128", "auto", "auto"]
        names = [algorithms.for_product("new-128x128", "bfloat16", direction) for direction in DIRECTIONS]
        assert names == ["new-128x128", "auto", "auto"]
    assert "new-128x128" not in {candidate.algorithm.name for candidate in plan.unproved_plans(fprop)}
