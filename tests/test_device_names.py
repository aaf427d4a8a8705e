"""The names of devices, wherever one can be given."""

from gpuconv import backends, models, summary
from gpuconv.backends import asarray, device_of, resolve
from gpuconv.cli import main
from gpuconv.data import Loader, Normalization, synthetic
from gpuconv.profiling.timer import CpuTimer, open_timer


def test_cpu_means_numpy_wherever_a_device_is_named(capsys):
    data, _ = synthetic.load(8, size=(8, 8, 3))
    loader = Loader(data, 4, normalization=Normalization.from_dataset(data), device="cpu")
    net = models.build("seed-net", (8, 8, 3), device="cpu")
    assert [resolve("cpu"), resolve("CPU"), loader.device, net.device, net.to("cpu").device] == ["numpy"] * 5
    arrays = asarray([1.0], "cpu"), backends.empty((2,), "float32", "cpu"), backends.zeros((2,), "float32", "cpu")
    assert [device_of(array) for array in arrays] == ["numpy"] * 3
    backends.synchronize("cpu")
    assert backends.describe("cpu") == backends.describe("numpy")
    assert summary.summary(net, device="cpu") == summary.summary(net, device="numpy")
    assert isinstance(open_timer("cpu"), CpuTimer)
    assert main(["verify", "--device", "cpu", "--op", "relu", "--tier", "tiny", "--dtype", "float32"]) == 0
    assert main(["summary", "--model", "seed-net", "--device", "cpu"]) == 0
    assert "device     numpy (as you asked)" in capsys.readouterr().out
