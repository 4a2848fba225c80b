"""Keeps one NVIDIA GPU busy with nothing but its driver: ``python -m support.cudaload GPU-uuid seconds [duty]``.

Needs no toolkit and no framework: the driver itself compiles the few lines of PTX below. Prints ``busy`` once the GPU
works. Exit status 3, with the reason, where it cannot.
"""

from __future__ import annotations

import ctypes
import os
import sys
import time
from typing import Any, NoReturn

PTX = """
.version 6.0
.target {target}
.address_size 64
.visible .entry spin(.param .u64 out, .param .u32 rounds)
{{
    .reg .pred %p<2>;
    .reg .f32 %f<8>;
    .reg .b32 %r<4>;
    .reg .b64 %rd<3>;
    ld.param.u64 %rd1, [out];
    ld.param.u32 %r1, [rounds];
    mov.u32 %r2, %tid.x;
    cvt.rn.f32.u32 %f1, %r2;
    mov.f32 %f2, 0f3F800001;
    mov.f32 %f3, 0f3DCCCCCD;
    mov.f32 %f4, %f1;
    mov.f32 %f5, %f2;
    mov.f32 %f6, %f3;
    mov.u32 %r3, 0;
LOOP:
    fma.rn.f32 %f1, %f1, %f2, %f3;
    fma.rn.f32 %f4, %f4, %f2, %f3;
    fma.rn.f32 %f5, %f5, %f2, %f3;
    fma.rn.f32 %f6, %f6, %f2, %f3;
    add.u32 %r3, %r3, 1;
    setp.lt.u32 %p1, %r3, %r1;
    @%p1 bra LOOP;
    add.f32 %f1, %f1, %f4;
    add.f32 %f5, %f5, %f6;
    add.f32 %f1, %f1, %f5;
    cvta.to.global.u64 %rd2, %rd1;
    st.global.f32 [%rd2], %f1;
    ret;
}}
"""
TARGETS = ("sm_75", "sm_52")
"""PTX of an older target runs on every newer GPU; drivers of today may take no target that is too old."""
BLOCKS, THREADS, ROUNDS = 4096, 256, 100_000


def main(uuid: str, seconds: float, duty: float = 1.0) -> int:
    """Launch kernels for ``duty`` of every second."""
    os.environ["CUDA_VISIBLE_DEVICES"] = uuid
    try:
        cuda: Any = ctypes.CDLL("libcuda.so.1")
    except OSError as error:
        give_up(f"no CUDA driver library: {error}")
    device, context, module, function = ctypes.c_int(), ctypes.c_void_p(), ctypes.c_void_p(), ctypes.c_void_p()
    memory = ctypes.c_uint64()
    check("cuInit", cuda.cuInit(0))
    check("cuDeviceGet", cuda.cuDeviceGet(ctypes.byref(device), 0))
    check("cuCtxCreate", cuda.cuCtxCreate_v2(ctypes.byref(context), 0, device))
    codes = []
    for target in TARGETS:
        codes.append(cuda.cuModuleLoadData(ctypes.byref(module), PTX.format(target=target).encode() + b"\0"))
        if codes[-1] == 0:
            break
    check("cuModuleLoadData", codes[-1])
    check("cuModuleGetFunction", cuda.cuModuleGetFunction(ctypes.byref(function), module, b"spin"))
    check("cuMemAlloc", cuda.cuMemAlloc_v2(ctypes.byref(memory), ctypes.c_size_t(256)))
    rounds = ctypes.c_uint32(ROUNDS)
    arguments = (ctypes.c_void_p * 2)(
        ctypes.cast(ctypes.byref(memory), ctypes.c_void_p), ctypes.cast(ctypes.byref(rounds), ctypes.c_void_p)
    )
    end = time.monotonic() + seconds
    reported = False
    while time.monotonic() < end:
        launched = cuda.cuLaunchKernel(function, BLOCKS, 1, 1, THREADS, 1, 1, 0, None, arguments, None)
        check("cuLaunchKernel", launched)
        check("cuCtxSynchronize", cuda.cuCtxSynchronize())
        if not reported:
            print("busy", flush=True)
            reported = True
        into = time.monotonic() % 1.0
        if into >= duty:
            time.sleep(1.0 - into)
    check("cuCtxDestroy", cuda.cuCtxDestroy_v2(context))
    return 0


def check(call: str, code: int) -> None:
    if code:
        give_up(f"{call} answers {code}")


def give_up(reason: str) -> NoReturn:
    print(reason, file=sys.stderr)
    raise SystemExit(3)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1], *map(float, sys.argv[2:])))
