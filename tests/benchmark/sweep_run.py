"""Checks and times the contenders of cuda_sweep.py's cells."""

import functools
import time

import torch

import gpu_timing
import peer_library
import sampled_reference
import sweep_cells
import sweep_problem
from sweep_cells import NoGpu
from sweep_cudnn_fp8 import CudnnFp8

WARM_UP_SECONDS = 0.5
MATMUL_LAUNCHES = 3


class Sweep:
    """The contenders of each cell, checked and timed."""

    def __init__(self, options, libraries, seed):
        """`libraries`: name -> PeerLibrary; the first is the one that is judged."""
        self.options, self.libraries, self.seed = options, libraries, seed
        if not torch.cuda.is_available():
            raise NoGpu("PyTorch finds no GPU")
        torch.manual_seed(seed)
        self.matmul = gpu_timing.Matmul()
        end = time.monotonic() + WARM_UP_SECONDS
        while time.monotonic() < end:
            gpu_timing.timed(self.matmul, 0, 20)

    def header(self):
        return {"benchmark": "cuda_sweep", "commit": gpu_timing.commit(), "date": time.strftime("%Y-%m-%d"),
                "seed": self.seed, "device": torch.cuda.get_device_name(), "torch": torch.__version__,
                "cuda": torch.version.cuda, "cudnn": torch.backends.cudnn.version(), "rounds": self.options.rounds,
                "round_ms": self.options.round_ms, "builds": self.options.builds, "state_begin": gpu_timing.gpu_state()}

    @staticmethod
    def gpu_state():
        return gpu_timing.gpu_state()

    def measure(self, cell):
        """What sweep_report reads."""
        result = {"group": cell.group, "cell": cell.name, "contenders": {},
                  "matmul": {"flops": gpu_timing.Matmul.flops, "milliseconds": []},
                  "criteria": sweep_cells.criteria_of(cell, self.libraries, self.options.ours_only)}
        contenders = dict(self.prepared(cell, result["contenders"]))
        launches = {}
        for name, contender in contenders.items():
            gpu_timing.timed(contender, 0, 2)
            launches[name] = max(2, min(200, round(self.options.round_ms / gpu_timing.timed(contender, 0, 2))))
            result["contenders"][name].update(launches=launches[name], milliseconds=[])
        order = [*contenders, None]
        for turn in range(self.options.rounds):
            for name in order[turn % len(order):] + order[:turn % len(order)]:  # nobody always follows the same
                if name is None:
                    result["matmul"]["milliseconds"].append(gpu_timing.timed(self.matmul, 0, MATMUL_LAUNCHES))
                else:
                    result["contenders"][name]["milliseconds"].append(
                        gpu_timing.timed(contenders[name], turn * 3, launches[name]))
        del contenders
        torch.cuda.empty_cache()
        return result

    def prepared(self, cell, results):
        """(name, contender) of those that run and are right; says of all in `results` what they are."""
        shared = {}
        for run, workload in cell.runs.items():
            if workload.tensors_key() not in shared:
                shared[workload.tensors_key()] = sweep_problem.Tensors(workload)
            tensors = shared[workload.tensors_key()]
            extras = sweep_problem.Extras(workload, len(tensors.copies))
            reference = sampled_reference.Reference(workload, tensors, extras)
            for build, library in self.libraries.items():
                name = sweep_cells.label_of(run, build, next(iter(self.libraries)))
                make = functools.partial(self.make_ours, library, workload, tensors, extras, reference)
                yield from self.attempt(name, make, workload.flops, results, is_ours=True)
            if run == next(iter(cell.runs)) and not self.options.ours_only:
                for peer in cell.peers:
                    make = functools.partial(self.make_peer, peer, workload, tensors, extras, reference)
                    yield from self.attempt(peer, make, workload.flops, results, is_ours=False)

    @staticmethod
    def attempt(name, make, flops, results, is_ours):
        try:
            contender, facts = make()
        except RuntimeError as error:  # torch.OutOfMemoryError too
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            results[name] = {"flops": flops, "not_run": reason}
            if is_ours and not isinstance(error, peer_library.Refused):
                results[name]["wrong"] = reason
            return
        results[name] = {"flops": flops, **facts}
        yield name, contender

    def make_ours(self, library, workload, tensors, extras, reference):
        contender = sweep_problem.Ours(library, workload, tensors, extras)
        errors, wrong = contender.check(reference, sampled_reference.failure_of)
        if self.options.expect_kernel not in contender.kernel:
            wrong = "; ".join(filter(None, [wrong, f"ran on {contender.kernel}, not on {self.options.expect_kernel}"]))
        return contender, {"kernel": contender.kernel, "workspace_bytes": contender.workspace_bytes, "errors": errors,
                           "wrong": wrong, "copies": len(tensors.copies)}

    @staticmethod
    def make_peer(peer, workload, tensors, extras, reference):
        if peer == "cudnn_fp8":
            contender = CudnnFp8(workload, tensors)
            errors = contender.check(lambda work, view: sampled_reference.Reference(work, view, extras))
        else:
            backend = {"cudnn": "CUDNN_ATTENTION", "fa2": "FLASH_ATTENTION"}[peer]
            contender = sweep_problem.Sdpa(backend, workload, tensors)
            errors = contender.check(reference)
        return contender, {"errors": errors}
