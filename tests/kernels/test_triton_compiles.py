"""The Triton kernels compile for a GPU: what the interpreter accepts, the compiler may refuse. No GPU is needed."""

import os
import subprocess
import sys

import pytest

PROGRAM = """
import sys

import triton
import triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from tide_lightning.kernels.triton_kernels import batch, codes, fitting, products, rows, threshold, topk

ARGUMENTS = {
    "i32": "stride grad_stride weight_stride num_columns num_channels num_entries num_copies k steps low first_token "
    "first_latent",
    "*i64": "rows columns row_pointer equal_taken above equal wanted wanted_pointer",
    "*i32": "keys places count counts bins floor bound",
    "*fp32": "weights threshold",
}
TYPES = {name: type for type, names in ARGUMENTS.items() for name in names.split()}


def compile_for_hopper(kernel, dtype, num_warps=4, float32="", **constants):
    types = TYPES | dict.fromkeys(float32.split(), "*fp32")
    signature = {name: types.get(name, f"*{dtype}") for name in kernel.arg_names}
    signature |= dict.fromkeys(constants, "constexpr")
    source = ASTSource(fn=kernel, signature=signature, constexprs=constants)
    compiled = triton.compile(source, target=GPUTarget("cuda", 90, 32), options={"num_warps": num_warps})
    assert compiled.asm["cubin"]
    if "-v" in sys.argv:
        print(dtype, kernel.__name__, constants, "shared", compiled.metadata.shared)


def of_products(dtype):
    compile_for_hopper(products._weighted_rows, dtype, BLOCK=1024, SUM=tl.float32)
    compile_for_hopper(products._dot, dtype, ENTRIES=16, BLOCK=64, SUM=tl.float32)
    compile_for_hopper(rows._project, dtype, float32="norm", CHANNELS=1024)
    compile_for_hopper(rows._normalise, dtype, CHANNELS=1024)
    compile_for_hopper(codes._add, dtype, num_warps=1, ENTRIES=64)
    compile_for_hopper(codes._look_up, dtype, ENTRIES=64)


def of_selection(dtype):
    bits = 32 if dtype == "fp32" else 16
    compile_for_hopper(topk._candidates, dtype, BITS=bits, GROUPS=1024, MOST=128)
    compile_for_hopper(topk._finish, dtype, num_warps=1, BITS=bits, MOST=128, STRIP=256)
    for weighted in (False, True):
        sizes = {"BITS": 32 if weighted else bits, "WEIGHTED": weighted, "GROUPS": 512, "num_warps": 2}
        compile_for_hopper(batch._count_maxima, dtype, **sizes)
        for lower in (False, True):
            compile_for_hopper(batch._count_keys, dtype, LOWER=lower, **sizes)
        compile_for_hopper(batch._count, dtype, **sizes)
        compile_for_hopper(batch._write, dtype, **sizes)
        for by_column in (False, True):
            sizes = {"WEIGHTED": weighted, "BY_COLUMN": by_column, "GROUPS": 1024}
            compile_for_hopper(threshold._count, dtype, **sizes)
            compile_for_hopper(threshold._write, dtype, **sizes)


def of_fitting(dtype):
    narrow, float32 = dtype != "fp32", "target values fitted"
    for size in fitting.SIZES:
        sizes = {"SIZE": size, "CHANNELS": 64 if narrow else 32, "IS_NARROW": narrow}
        compile_for_hopper(fitting._fit_by_gram, dtype, num_warps=8 if size == 128 else 4, float32=float32, **sizes)
    compile_for_hopper(fitting._fit_by_rows, dtype, num_warps=16, float32=float32, ENTRIES=8, CHANNELS=2048)


globals()[sys.argv[1]](sys.argv[2])
"""


@pytest.mark.parametrize("dtype", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("kernels", ["of_products", "of_selection", "of_fitting"])
def test_kernels_compile_for_hopper(kernels: str, dtype: str) -> None:
    pytest.importorskip("triton")
    environment = {"TRITON_INTERPRET": "0", "TRITON_DEFAULT_FP_FUSION": "1"}
    program = [sys.executable, "-c", PROGRAM, kernels, dtype]
    done = subprocess.run(program, capture_output=True, text=True, check=False, env={**os.environ, **environment})
    assert done.returncode == 0, done.stderr[-2000:]
