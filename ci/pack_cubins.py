"""Compile the kernels of the GPU gate (ci/gpu.sh) without a GPU: python -m ci.pack_cubins --nvrtc DIR

They go into one portable file, which holds entries of gpuconv's kernel cache. The cache finds an entry by the kernel's
source and by the versions of the NVRTC and the CUDA headers that compiled it, in whatever folder the source lies. So
the file works on any machine with the same versions of both. For a machine with NVRTC 13.0, this command makes DIR:

    pip install --no-deps --target DIR nvidia-cuda-nvrtc==13.0.88 nvidia-cuda-runtime==13.0.96

The program compiles all variants of the library's kernels that the architecture can run, the kernels that the gate's
nets launch and, for sm_90a, the kernels of the gate's part "hopper". Other kernels are compiled where a check runs.
Kernels compiled before are taken from the cache.
"""

from __future__ import annotations

import argparse
import functools
import io
import json
import multiprocessing
import zipfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from gpuconv.cli import option_types
from gpuconv.system import files
from gpuconv.system.processor import available_cores

ROOT = Path(__file__).resolve().parents[1]
LARGEST = 40 << 20  # bytes
NETS = ("airbench94", "vgg-cifar", "resnet18-cifar")
BATCH = 8

Job = tuple[str, tuple[tuple[str, str], ...]]  # a .cu file's name, or its path if it is not shipped, and its macros


def variants_of(file: str | None = None, arch: str = "sm_90a") -> list[Job]:
    from gpuconv.backends.cuda.analysis.variants import variants

    return [(each.file, each.defines) for each in variants() if file in (None, each.file) and each.compiles_for(arch)]


def launched_by(net: str, precision: str) -> Iterator[Job]:
    """The kernels of a net's training step, fused as in training."""
    import numpy as np

    from gpuconv import backends, models
    from gpuconv.profiling import launches
    from gpuconv.training import Trainer

    built = models.build(net, seed=0, device="emulated", precision=precision)
    trainer = Trainer(built, "sgd", lr=0.1, momentum=0.9)
    images = np.zeros((BATCH, *built.input_shape), np.float32).astype(built.dtype)
    x, y = backends.asarray(images, "emulated"), backends.asarray(np.zeros(BATCH, np.int64), "emulated")
    with launches.record_launches(execute=False) as found:
        trainer.optimizer.advance()
        trainer.step(x, y)
    modules = (each.kernel.module for each in found)
    yield from dict.fromkeys((module.path.name, tuple(module.defines.items())) for module in modules)


def kernels_of_the_gate(arch: str = "sm_90a") -> list[Job]:
    """All variants of the library's kernels for an architecture, and what the gate's nets and its part "hopper" add."""
    jobs = variants_of(arch=arch)
    jobs += [job for net in NETS for precision in ("bfloat16", "float32") for job in launched_by(net, precision)]
    return [*dict.fromkeys([*jobs, *(launched_by_hopper_checks() if arch == "sm_90a" else ())])]


def launched_by_hopper_checks() -> Iterator[Job]:
    """The kernels of the gate's part "hopper"."""
    from ci.gate.hopper_kernels import algorithms, cluster, ring, warpgroup

    for module in dict.fromkeys((*warpgroup.modules(), ring.module(), cluster.module(), *algorithms.modules())):
        shipped = module.path.parent != warpgroup.TEST_KERNELS
        yield module.path.name if shipped else str(module.path), tuple(module.defines.items())


def use_nvrtc(folder: Path | None) -> str:
    """Compile with the NVRTC and the headers of a folder, if one is named. Returns the version of NVRTC."""
    from gpuconv.backends.cuda.runtime import nvrtc

    if folder is not None:
        from bench.fit_model import load_nvrtc

        load_nvrtc(folder)
        headers = sorted(folder.rglob("cuda_fp16.h"))
        if not headers:
            raise FileNotFoundError(f"{folder} holds no cuda_fp16.h: install nvidia-cuda-runtime into it too")
        nvrtc.headers = functools.cache(lambda: str(headers[0].parent))
    return nvrtc.toolkit()[1]


def compile_job(job: Job, arch: str) -> Path:
    """Compile a job. Returns the folder of its entry in the cache."""
    from gpuconv.backends.cuda.runtime import nvrtc, source

    file, defines = job
    path = source.resolve(file)
    return nvrtc.compile_cubin(path.stem, source.flatten(path), dict(defines), arch).path.parent


def pack_entries(entries: Sequence[Path], arch: str) -> bytes:
    from gpuconv.backends.cuda.runtime import nvrtc

    data = io.BytesIO()
    with zipfile.ZipFile(data, "w", zipfile.ZIP_LZMA) as archive:
        compiler = {"nvrtc": nvrtc.version(), "headers": nvrtc.header_version()}
        manifest = {"arch": arch, **compiler, "entries": len(entries)}
        archive.writestr("manifest.json", json.dumps(manifest))
        for entry in entries:
            for file in sorted(entry.iterdir()):
                archive.write(file, f"{entry.name}/{file.name}")
    return data.getvalue()


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        "python -m ci.pack_cubins", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=ROOT / "cubins.zip", help="default: cubins.zip, which git ignores")
    parser.add_argument("--arch", default="sm_90a", help="default: sm_90a")
    parser.add_argument("--nvrtc", type=Path, metavar="DIR", help="folder of the NVRTC (default: the installed one)")
    parser.add_argument("--file", help="only the variants of this .cu file, without those of nets")
    parser.add_argument(
        "--workers", type=option_types.count(1), default=available_cores(), help="how many to compile at once"
    )
    options = parser.parse_args(argv)
    nvrtc = use_nvrtc(options.nvrtc)
    jobs = variants_of(options.file, options.arch) if options.file else kernels_of_the_gate(options.arch)
    if not jobs:
        parser.error(f"no variant of a kernel file {options.file!r} compiles for {options.arch}")
    print(f"{len(jobs)} kernel variants for {options.arch}, {nvrtc}", flush=True)
    compile_one = functools.partial(compile_job, arch=options.arch)
    if options.workers == 1:
        entries = list(map(compile_one, jobs))
    else:
        spawn = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(options.workers, spawn, use_nvrtc, (options.nvrtc,)) as pool:
            entries = list(pool.map(compile_one, jobs, chunksize=8))
    entries = sorted(dict.fromkeys(entries))
    data = pack_entries(entries, options.arch)
    if len(data) > LARGEST:
        parser.error(f"the pack would have {len(data) / 2**20:.1f} MiB, and at most {LARGEST >> 20} are allowed")
    files.write(options.out, data)
    print(f"{options.out}: {len(entries)} entries, {len(data) / 2**20:.1f} MiB")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
