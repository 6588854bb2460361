"""What the GPU benchmarks in Python share: launches timed by CUDA events, and what they ran on."""

import contextlib
import os
import pathlib
import subprocess

import torch

ROTATED_BYTES = 2**30  # what the copies of a problem's tensors take together, so that no launch finds them in L2
EXIT_MISSING = 77
LEAD_CYCLES = 100_000  # about 60 us, for the first launches to be queued


def output_of(*command):
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""


def commit():
    folder = str(pathlib.Path(__file__).resolve().parent)
    return (os.environ.get("TESSERA_COMMIT") or output_of("git", "-C", folder, "describe", "--always", "--dirty")
            or "unknown")


def gpu_state():
    """Driver, clocks, power and temperature as nvidia-smi names them."""
    return output_of("nvidia-smi", "--format=csv,noheader", "-i", str(torch.cuda.current_device()),
                     "--query-gpu=driver_version,clocks.sm,clocks.mem,power.draw,temperature.gpu")


def timed(contender, turn, launches):
    """Milliseconds of one of `launches` launches in a row, contender(turn), contender(turn + 1), ...

    A contender may have a scope(), a context to be called in.
    """
    begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    with getattr(contender, "scope", contextlib.nullcontext)():
        torch.cuda._sleep(LEAD_CYCLES)  # the clock starts with launches waiting, not with an idle GPU
        begin.record()
        for i in range(launches):
            contender(turn + i)
        end.record()
    end.synchronize()
    return begin.elapsed_time(end) / launches


class Matmul:
    """The bf16 matmul whose rate stands for what the matrix units can do; 2 * 8192**3 FLOPs."""

    flops = 2 * 8192**3

    def __init__(self):
        self.a, self.b, self.c = (torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16) for _ in range(3))

    def __call__(self, turn):
        torch.mm(self.a, self.b, out=self.c)
