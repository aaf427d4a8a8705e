"""Reading .cu files: includes, signatures, shared variables."""

import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from gpuconv.backends.cuda.runtime import source


def parameters(declaration, **defines):
    text = f'extern "C" __global__ void k({declaration}) {{ }}'
    return source.signatures(text, defines)["k"].parameters


@pytest.mark.parametrize(
    ("declaration", "name", "c_type", "dtype", "alignment"),
    [
        ("float* y", "y", "float*", "float32", 1),
        ("const float *__restrict__ x", "x", "float*", "float32", 1),
        ("double const * const x", "x", "double*", "float64", 1),
        ("const unsigned char* labels", "labels", "unsigned char*", "uint8", 1),
        ("uint8* images", "images", "uint8*", "uint8", 1),
        ("__nv_bfloat16* y", "y", "__nv_bfloat16*", "bfloat16", 1),
        ("bool* mask", "mask", "bool*", "bool", 1),
        ("const float4* x", "x", "float4*", "float32", 16),
        ("uchar4* x", "x", "uchar4*", "uint8", 4),
        ("void* memory", "memory", "void*", None, 1),
        ("float* const* tensors", "tensors", "float**", "uint64", 8),
        ("int n", "n", "int", "int32", 1),
        ("const unsigned n", "n", "unsigned", "uint32", 1),
        ("unsigned long long seed", "seed", "unsigned long long", "uint64", 1),
        ("int64 n", "n", "int64", "int64", 1),
        ("int64_t n", "n", "int64_t", "int64", 1),
        ("const std::uint8_t* x", "x", "std::uint8_t*", "uint8", 1),
        ("unsigned long long int n", "n", "unsigned long long int", "uint64", 1),
        ("long n", "n", "long", np.dtype("l").name, 1),
        ("double rate", "rate", "double", "float64", 1),
        ("const __grid_constant__ Shape shape", "shape", "Shape", None, 1),
    ],
)
def test_a_parameter_declaration_is_parsed(declaration, name, c_type, dtype, alignment):
    (parameter,) = parameters(declaration)
    assert parameter == source.Parameter(name, c_type, "*" in c_type, dtype, alignment)


def test_macros_that_refer_to_other_macros_are_expanded():
    y, n = parameters("DTYPE* y, INDEX n", DTYPE="NUMBER", NUMBER="float16", INDEX="long long")
    assert (y.dtype, n.dtype) == ("float16", "int64")


def test_signatures_are_found_among_comments_bounds_and_templates():
    text = """
    // extern "C" __global__ void commented(int n) {}
    /* extern "C" __global__ void commented_too(int n) {} */
    template <class T> __global__ void not_extern(T* x) {}
    extern "C" __global__ void __launch_bounds__(THREADS, 2) first(
        float* y,  // the output, of n numbers
        int n) { printf("extern // %d", n); }
    extern "C" __global__ __launch_bounds__(64 * 2) void second() {
    }
    extern "C" __global__ __launch_bounds__(sizeof(float) * 64) void third() {
    }
    extern "C" __global__ void declared_only(int n);
    """
    signatures = source.signatures(text, {"THREADS": "256"})
    assert list(signatures) == ["first", "second", "third"]
    assert [p.name for p in signatures["first"].parameters] == ["y", "n"]
    assert signatures["first"].max_threads == 256
    assert signatures["second"].parameters == ()
    assert signatures["second"].max_threads == 128
    assert signatures["third"].max_threads is None  # only the compiler evaluates sizeof


def test_the_blocks_of_a_cluster_are_read():
    text = """
    extern "C" __global__ void alone() {}
    extern "C" __global__ void __cluster_dims__(2, 1, 1) pair() {}
    extern "C" __global__ __launch_bounds__(128 * 3, 1) __cluster_dims__(2 * N) void four() {}
    extern "C" __global__ void __cluster_dims__(N, 1, 1) __launch_bounds__(384, 1) two(const float* x) {}
    """
    signatures = source.signatures(text, {"N": "2"})
    assert {name: signature.cluster for name, signature in signatures.items()} == {
        "alone": 1,
        "pair": 2,
        "four": 4,
        "two": 2,
    }
    assert [signature.max_threads for signature in signatures.values()] == [None, None, 384, 384]


@pytest.mark.parametrize("bound", ["0100", "1 / 0", "8 8", "2 **", " "])
def test_a_bound_that_is_no_decimal_constant_counts_as_none(bound):
    kernel = f'extern "C" __global__ void __launch_bounds__({bound}) k() {{}}'
    assert source.signatures(kernel, {})["k"].max_threads is None


@pytest.mark.parametrize("dims", ["2, 2, 1", "9, 1, 1", "0", "1, 1, 2", "N, 1, 1"])
def test_a_cluster_that_is_not_1_to_8_blocks_along_x_is_refused(dims):
    with pytest.raises(
        ValueError, match=r"kernel k: a cluster is __cluster_dims__\(N, 1, 1\), N a constant from 1 to 8"
    ):
        source.signatures(f'extern "C" __global__ void __cluster_dims__({dims}) k() {{}}', {})


def test_a_template_type_may_have_several_arguments():
    y, p, _ = parameters("float* y, const Pack<Pair<int, 2>, 4> p, int n")
    assert (y.name, p.name, p.c_type, p.dtype) == ("y", "p", "Pack<Pair<int, 2>, 4>", None)


def test_a_byte_order_mark_is_dropped(tmp_path):
    (tmp_path / "a.cu").write_text('#include "b.cuh"\n', encoding="utf-8-sig")
    (tmp_path / "b.cuh").write_text("int b;\n", encoding="utf-8-sig")
    flat = source.flatten(tmp_path / "a.cu")
    assert "\ufeff" not in flat
    assert "int b;" in flat


def test_a_kernel_may_have_no_parameters():
    assert parameters("") == parameters("void") == ()


@pytest.mark.parametrize("parameter", ["float x[4]", "int (*f)(int)", "int (*f)(int, int (*)(float))"])
def test_an_unreadable_parameter_is_named(parameter):
    with pytest.raises(ValueError, match=re.escape(f"cannot read the kernel parameter {parameter!r}")):
        parameters(f"float* y, {parameter}, int n")


def test_each_header_is_included_once_with_line_numbers(tmp_path):
    (tmp_path / "a.cu").write_text('#include "b.cuh"\n#include "c.cuh"\n#include <cuda_fp16.h>\nint a;\n')
    (tmp_path / "b.cuh").write_text('#pragma once\n#include "c.cuh"\nint b;\n')
    (tmp_path / "c.cuh").write_text("#pragma once\nint c;\n")
    flat = source.flatten(tmp_path / "a.cu")
    assert flat.count("int c;") == flat.count("int b;") == 1
    assert "#include <cuda_fp16.h>" in flat
    assert "pragma once" not in flat
    at, where = {}, ("", 0)
    for line in flat.splitlines():
        if line.startswith("#line"):
            where = (Path(line.split('"')[1]).name, int(line.split()[1]))
            continue
        at[line] = where
        where = (where[0], where[1] + 1)
    assert at["int a;"] == ("a.cu", 4)
    assert at["int b;"] == ("b.cuh", 3)
    assert at["int c;"] == ("c.cuh", 2)


def test_the_first_line_names_the_shipped_file():
    flat = source.flatten(source.resolve("activation.cu"))
    assert flat.splitlines()[0] == '#line 1 "gpuconv/kernels/activation.cu"'


def test_the_text_does_not_depend_on_where_the_files_are(tmp_path, monkeypatch):
    expected = source.flatten(source.resolve("conv2d_fprop_mma.cu"))
    assert str(source.directory().resolve()) not in expected
    moved = tmp_path / "moved"
    shutil.copytree(source.directory(), moved)
    monkeypatch.setattr(source, "directory", lambda: moved)
    assert source.flatten(source.resolve("conv2d_fprop_mma.cu")) == expected


def test_included_user_files_are_named_relative_to_the_compiled_one(tmp_path):
    texts = []
    for folder in ("a", "b"):
        (tmp_path / folder / "lib").mkdir(parents=True)
        (tmp_path / folder / "lib" / "mine.cuh").write_text("int mine;\n")
        (tmp_path / folder / "my.cu").write_text('#include "lib/mine.cuh"\n#include "types.cuh"\n')
        texts.append(source.flatten(tmp_path / folder / "my.cu"))
    assert texts[0] == texts[1]
    for line in ('#line 1 "my.cu"', '#line 1 "lib/mine.cuh"', '#line 1 "gpuconv/kernels/types.cuh"'):
        assert line in texts[0].splitlines()


def test_a_missing_file_or_header_is_an_error(tmp_path):
    with pytest.raises(ValueError, match=r"there is no kernel file .*nothing\.cu"):
        source.resolve("nothing.cu")
    (tmp_path / "a.cu").write_text('\n#include "nothing.cuh"\n')
    with pytest.raises(ValueError, match=r'a\.cu:2: there is no header "nothing\.cuh"'):
        source.flatten(tmp_path / "a.cu")


@pytest.mark.parametrize("name", ["mine.cu", "activation.cu"])
def test_a_path_from_the_current_folder_is_not_the_name_of_a_shipped_file(tmp_path, monkeypatch, name):
    own = tmp_path / name
    own.write_text("")
    monkeypatch.chdir(tmp_path)
    assert source.resolve(f"./{name}") == own.resolve()
    assert source.resolve("activation.cu") == (source.directory() / "activation.cu").resolve()


def test_a_users_file_finds_shipped_headers(tmp_path):
    (tmp_path / "a.cu").write_text('#include "types.cuh"\n')
    assert "using float16 = __half;" in source.flatten(tmp_path / "a.cu")


@pytest.mark.parametrize(
    ("declaration", "expected"),
    [
        ("__shared__ float tile[2][3];", "using tile_type = float [2][3]"),
        ("__shared__ alignas(16) float tile[N + 1];", "16 > alignof(tile_type)"),
        ("__align__(8) __shared__ int tile;", "8 > alignof(tile_type)"),
        ("__shared__ Pack<float, 4> tile[8];", "using tile_type = Pack<float, 4> [8]"),
        ("__shared__ typename Loader::Tile tile;", "using tile_type = typename Loader::Tile "),
        ("extern __shared__ __align__(16) unsigned char tile[];", "unsigned char* const tile = "),
        ("__shared__ float\n    tile[4];", "using tile_type = float [4]"),
        ("__shared__ int first, tile[4];", "using tile_type = int [4]"),
        ("__shared__ Pack<float, N> tile[2], last;", "using last_type = Pack<float, N> ;"),
        ("volatile __shared__ float tile[f(2, 3)];", "using tile_type = volatile float [f(2, 3)]"),
        ("static __shared__ float tile;", "{ static char tile_key"),
    ],
)
def test_shared_variables_are_rewritten_for_the_host(declaration, expected):
    rewritten = source.for_host(f"void f() {{ {declaration} }}", [])
    assert rewritten.count("\n") == declaration.count("\n") + 2  # for_host adds the #include line and a final newline
    assert "__shared__" not in rewritten
    assert expected in rewritten


def test_an_include_in_a_comment_is_left_alone(tmp_path):
    text = '/* formerly\n#include "missing.cuh"\n*/\n#include "there.cuh"\n// done\n'
    (tmp_path / "a.cu").write_text(text)
    (tmp_path / "there.cuh").write_text("int there;\n")
    flat = source.flatten(tmp_path / "a.cu")
    assert '/* formerly\n#include "missing.cuh"\n*/\n' in flat
    assert flat.count("int there;") == 1
