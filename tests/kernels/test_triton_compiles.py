"""The Triton kernels compile for a GPU: what the interpreter accepts, the compiler may refuse. No GPU is needed."""

import os
import subprocess
import sys

import pytest

PROGRAM = """
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from tide_lightning.kernels.backends import triton_kernels as kernels

POINTERS = {"columns": "*i64", "row_pointer": "*i64", "rows": "*i64", "indices": "*i64"}
NUMBERS = ("num_columns", "num_channels", "k")


def compile_for_hopper(kernel, dtype, **constants):
    signature = {name: POINTERS.get(name, "i32" if name in NUMBERS else f"*{dtype}") for name in kernel.arg_names}
    signature |= dict.fromkeys(constants, "constexpr")
    source = ASTSource(fn=kernel, signature=signature, constexprs=constants)
    assert triton.compile(source, target=GPUTarget("cuda", 90, 32)).asm["cubin"]


for dtype in ("fp32", "bf16", "fp16"):
    compile_for_hopper(kernels._weighted_rows, dtype, BLOCK=1024, SUM=kernels.tl.float32)
    compile_for_hopper(kernels._dot, dtype, BLOCK=1024, SUM=kernels.tl.float32)
"""


def test_kernels_compile_for_hopper() -> None:
    pytest.importorskip("triton")
    environment = {"TRITON_INTERPRET": "0", "TRITON_DEFAULT_FP_FUSION": "1"}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=False, env={**os.environ, **environment}
    )
    assert done.returncode == 0, done.stderr[-2000:]
