"""NVRTC: kernels compile for every architecture on a machine without a GPU; cache keys, versions and errors."""

import importlib.metadata
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from gpuconv.backends.cuda.analysis.variants import representatives, variants
from gpuconv.backends.cuda.runtime import nvrtc
from gpuconv.backends.cuda.runtime.kernel import load
from tests.kernels.compiled import nvdisasm
from tests.python_process import python

pytest.importorskip("cuda.core", reason="NVRTC is not installed")
pytest.importorskip("cuda.bindings", reason="NVRTC is not installed")

KERNELS = load("arithmetic.cu", {"DTYPE": "float32", "WIDTH": 4})  # few kernels, which compile quickly
ACTIVATIONS = load("activation.cu", {"DTYPE": "float32", "WIDTH": 4})


def compiled(arch, module=KERNELS):
    return nvrtc.compile_cubin(module.path.stem, module.text, module.defines, arch)


@pytest.mark.kernels
@pytest.mark.parametrize("arch", nvrtc.ARCHITECTURES)
@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16"])
def test_the_activations_compile_without_spills(arch, dtype):
    module = load("activation.cu", {"DTYPE": dtype, "WIDTH": {"float32": 4, "float64": 2, "bfloat16": 8}[dtype]})
    binary = compiled(arch, module)
    assert set(binary.resources) == set(module.signatures)
    for name, resources in binary.resources.items():
        assert resources.spill_stores == resources.spill_loads == resources.stack == 0, name
        assert resources.registers > 0, name
    assert binary.path.read_bytes()[:4] == b"\x7fELF"


@pytest.mark.kernels
def test_every_accepted_architecture_compiles(tmp_path):
    (tmp_path / "none.cu").write_text('extern "C" __global__ void none() {}\n')
    for arch in nvrtc.known_architectures():
        assert compiled(arch, load(tmp_path / "none.cu")).path.is_file()


@pytest.mark.slow
def test_the_kernels_that_use_no_asynchronous_copies_compile_for_sm_75():
    if "sm_75" not in nvrtc.known_architectures():
        pytest.skip("this NVRTC no longer compiles for sm_75")
    copying = ("mma.cu", "mma_cluster.cu", "_few_channels.cu")
    served = [variant for variant in representatives(variants()) if not variant.file.endswith(copying)]
    assert {"conv2d_fprop.cu", "conv2d_dgrad.cu", "conv2d_wgrad.cu", "matmul.cu"} <= {
        variant.file for variant in served
    }
    for variant in served:
        assert compiled("sm_75", load(variant.file, dict(variant.defines))).path.is_file()


def test_shared_memory_is_counted():
    module = load(Path(__file__).parents[3] / "kernels" / "planted.cu")
    resources = compiled("sm_80", module).resources
    assert resources["correct"].static_shared == 64 * 4
    assert resources["reads_past_the_end"].static_shared == 0


def test_the_machine_code_moves_16_bytes_and_has_line_numbers():
    tool = nvdisasm()
    listing = subprocess.run([tool, "-g", compiled("sm_90a").path], capture_output=True, text=True, check=True).stdout
    scale = listing.split(".text.scale_forward:")[1].split(".text.")[0]
    assert "LDG.E.128" in scale
    assert "STG.E.128" in scale
    assert "LDL" not in scale
    assert re.search(r'File "(\S*/)?gpuconv/kernels/arithmetic\.cu", line', listing)


@pytest.mark.slow
def test_denormals_are_not_flushed_to_zero():
    cubin = compiled("sm_80", ACTIVATIONS).path
    listing = subprocess.run([nvdisasm(), cubin], capture_output=True, text=True, check=True).stdout
    leaky = listing.split(".text.leaky_relu_forward:")[1].split(".text.")[0]
    assert "FMUL " in leaky
    assert "FMUL.FTZ" not in leaky


def test_the_second_compile_comes_from_the_cache():
    first = compiled("sm_80")
    stamp = first.path.stat().st_mtime_ns
    assert compiled("sm_80") == first
    assert first.path.stat().st_mtime_ns == stamp


def test_a_cached_kernel_needs_no_nvrtc(monkeypatch, tmp_path):
    first, version = compiled("sm_80"), nvrtc.toolkit()[1]
    nvrtc.toolkit.cache_clear()
    monkeypatch.setitem(sys.modules, "cuda.bindings", None)
    assert nvrtc.version() == version
    assert compiled("sm_80") == first
    monkeypatch.setenv("GPUCONV_CACHE_DIR", str(tmp_path / "empty"))
    with pytest.raises(nvrtc.CompileError, match="NVRTC cannot be loaded"):
        compiled("sm_80")


@pytest.mark.slow
def test_nvrtc_is_not_loaded_for_a_cached_kernel():
    first = compiled("sm_80")
    code = (
        "from gpuconv.backends.cuda.runtime import nvrtc\n"
        "from gpuconv.backends.cuda.runtime.kernel import load\n"
        "module = load('arithmetic.cu', {'DTYPE': 'float32', 'WIDTH': 4})\n"
        "print(nvrtc.compile_cubin(module.path.stem, module.text, module.defines, 'sm_80').path)\n"
        "print('libnvrtc' in open('/proc/self/maps').read())"
    )
    output = python(code)
    assert output.split() == [str(first.path), "False"]


# Each case: its name, the versions of the installed packages, and the version of NVRTC that follows from them.
PACKAGED = [
    ("13", {"cuda-bindings": "13.0.3", "nvidia-cuda-nvrtc": "13.0.88"}, "NVRTC 13.0"),
    ("12", {"cuda-bindings": "12.9.4", "nvidia-cuda-nvrtc-cu12": "12.8.93"}, "NVRTC 12.8"),
    (
        "both",
        {"cuda-bindings": "12.9.4", "nvidia-cuda-nvrtc-cu12": "12.9.86", "nvidia-cuda-nvrtc": "13.5.37"},
        "NVRTC 12.9",
    ),
    ("another major", {"cuda-bindings": "13.0.3", "nvidia-cuda-nvrtc": "14.0.1"}, None),
    ("a system-wide toolkit", {"cuda-bindings": "13.0.3"}, None),
    ("no bindings", {"nvidia-cuda-nvrtc": "13.0.88"}, None),
    ("odd", {"cuda-bindings": "dev", "nvidia-cuda-nvrtc": "13"}, None),
]


def test_the_nvrtc_package_gives_its_version(monkeypatch):
    for case, packages, expected in PACKAGED:

        def version(name, packages=packages):
            if name not in packages:
                raise importlib.metadata.PackageNotFoundError(name)
            return packages[name]

        monkeypatch.setattr(importlib.metadata, "version", version)
        assert nvrtc._packaged_version.__wrapped__() == expected, case


@pytest.mark.parametrize("packaged", [None, "NVRTC 12.0"], ids=["no package", "a package of another version"])
def test_the_cache_key_holds_the_version_of_the_nvrtc_that_compiled(monkeypatch, packaged):
    first = compiled("sm_80")
    nvrtc.toolkit.cache_clear()
    monkeypatch.setattr(nvrtc, "_packaged_version", lambda: packaged)
    assert compiled("sm_80") == first
    assert nvrtc.version() == nvrtc.toolkit()[1] != packaged  # NVRTC is loaded by now


def test_the_cache_entry_is_independent_of_where_headers_and_cache_are(tmp_path, monkeypatch):
    first = compiled("sm_80").path.parent
    (tmp_path / "headers").symlink_to(nvrtc.headers())
    monkeypatch.setattr(nvrtc, "headers", lambda: str(tmp_path / "headers"))
    assert compiled("sm_80").path.parent == first
    (tmp_path / "cache").mkdir()
    shutil.copytree(first, tmp_path / "cache" / first.name)
    monkeypatch.setenv("GPUCONV_CACHE_DIR", str(tmp_path / "cache"))
    assert compiled("sm_80").path.parent == tmp_path / "cache" / first.name
    monkeypatch.setattr(nvrtc, "_header_version", lambda folder: "12000")
    assert compiled("sm_80").path.parent.name != first.name


def test_a_compile_error_points_into_the_cu_file(tmp_path):
    (tmp_path / "bad.cu").write_text('\nextern "C" __global__ void bad(float* y) {\n    y[0] = missing;\n}\n')
    module = load(tmp_path / "bad.cu")
    message = r'bad\.cu does not compile for sm_80[\s\S]*bad\.cu\(3\): error.*"missing"'
    with pytest.raises(nvrtc.CompileError, match=message):
        compiled("sm_80", module)


def test_the_known_architectures_are_those_nvrtc_supports(monkeypatch):
    known = nvrtc.known_architectures()
    assert {*nvrtc.ARCHITECTURES, "sm_87", "sm_90", "sm_103a", "sm_121", "sm_121a"} <= set(known)
    assert not {"sm_80a", "sm_90f"} & set(known)

    def missing():
        raise nvrtc.CompileError("NVRTC cannot be loaded")

    monkeypatch.setattr(nvrtc, "toolkit", missing)
    assert nvrtc.known_architectures.__wrapped__() == nvrtc.ARCHITECTURES


@pytest.mark.parametrize(
    ("capability", "arch"),
    [
        ("80", "sm_80"),
        ("89", "sm_89"),
        ("90", "sm_90a"),
        ("100", "sm_100a"),
        ("103", "sm_103a"),
        ("120", "sm_120"),
        ("121", "sm_121"),
    ],
)
def test_a_compute_capability_has_its_architecture(capability, arch):
    assert nvrtc.architecture(capability) == arch


def test_without_nvrtc_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "cuda.bindings", None)
    nvrtc.toolkit.cache_clear()
    message = r"NVRTC cannot be loaded .*pip install 'gpuconv\[cuda13\]'"
    with pytest.raises(nvrtc.CompileError, match=message) as caught:
        nvrtc.toolkit()
    assert isinstance(caught.value.__cause__, ImportError)
    nvrtc.toolkit.cache_clear()
