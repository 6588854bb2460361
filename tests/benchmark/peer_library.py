"""The CUDA kernels from Python, through libtessera_kernels_cuda_shared.so: tessera/attention.h for ctypes."""

import ctypes
import os

DTYPES = {"fp32": 1, "fp16": 2, "bf16": 3, "fp8": 4, "bool": 5}  # tessera_dtype
MASKS = {"": 0, "boolean": 1, "additive": 2}  # tessera_mask_kind


def structure(name, fields):
    return type(name, (ctypes.Structure,), {"_fields_": fields, "__doc__": f"{name} of tessera/attention.h"})


def fields_of(kind, *names):
    return [(name, kind) for name in names]


Tensor = structure("tessera_tensor", [
    ("data", ctypes.c_void_p),
    *fields_of(ctypes.c_int64, "num_elements", "token_stride", "head_stride"),
    ("dtype", ctypes.c_int32)])

Sequence = structure("tessera_sequence", [
    *fields_of(ctypes.c_int64, "q_begin", "q_len", "kv_begin", "kv_len", "diagonal_offset", "window_left",
               "window_right"),
    ("mask", ctypes.c_void_p),
    *fields_of(ctypes.c_int64, "mask_head_stride", "mask_q_stride", "mask_kv_stride")])

Lse = structure("tessera_lse", [
    ("data", ctypes.c_void_p), *fields_of(ctypes.c_int64, "num_elements", "token_stride", "head_stride")])

Scales = structure("tessera_scales", [
    ("data", ctypes.POINTER(ctypes.c_float)), *fields_of(ctypes.c_int64, "sequence_stride", "head_stride")])

Problem = structure("tessera_attention_problem", [
    ("struct_size", ctypes.c_uint32),
    *fields_of(ctypes.c_int32, "num_q_heads", "num_kv_heads", "head_dim_qk", "head_dim_v"),
    *fields_of(ctypes.c_float, "scale", "softcap"),
    *fields_of(Tensor, "q", "k", "v", "o"),
    ("lse", Lse),
    *fields_of(ctypes.c_int32, "mask_kind", "mask_dtype"),
    *fields_of(ctypes.POINTER(ctypes.c_float), "alibi_slopes", "sinks"),
    ("sequences", ctypes.POINTER(Sequence)),
    ("num_sequences", ctypes.c_int64),
    *fields_of(Scales, "q_scales", "k_scales", "v_scales")])


class Plan(ctypes.Structure):
    """tessera_peer_plan of cuda_peer_library.cc"""
    _fields_ = [("kernel", ctypes.c_char_p), ("workspace_bytes", ctypes.c_int64)]


def floats(values):
    """A host array for slopes, sinks and scales; None for None."""
    return None if values is None else (ctypes.c_float * len(values))(*values)


class Refused(RuntimeError):
    """A problem that a library has no kernel for."""


class LibraryError(RuntimeError):
    """A file that is not a build of the kernels, of this version."""


class PeerLibrary:
    """One build of the kernels. Several can be open at once: each has its own code and CUDA runtime."""

    def __init__(self, path):
        self.path = os.path.abspath(path)
        try:
            self.library = ctypes.CDLL(self.path)  # symbols stay local, so that the builds do not mix
            self.library.tessera_peer_problem_bytes.restype = ctypes.c_int64
        except (OSError, AttributeError) as error:
            raise LibraryError(f"{path} is no libtessera_kernels_cuda_shared.so of this version: {error}") from None
        theirs, ours = self.library.tessera_peer_problem_bytes(), ctypes.sizeof(Problem)
        if theirs != ours:
            raise LibraryError(f"{path} has a tessera_attention_problem of {theirs} bytes, expected {ours}")
        self.library.tessera_peer_make_plan.restype = ctypes.c_char_p
        self.library.tessera_peer_make_plan.argtypes = [ctypes.c_void_p, ctypes.c_int32, ctypes.c_void_p]
        self.library.tessera_peer_attention.restype = ctypes.c_char_p
        self.library.tessera_peer_attention.argtypes = [ctypes.c_void_p, ctypes.c_int32, ctypes.c_void_p,
                                                        ctypes.c_void_p]

    def plan(self, problem, standard=False):
        """(kernel name, bytes of workspace)"""
        plan = Plan()
        refusal = self.library.tessera_peer_make_plan(ctypes.byref(problem), int(standard), ctypes.byref(plan))
        if refusal is not None:
            raise Refused(refusal.decode())
        return plan.kernel.decode(), plan.workspace_bytes

    def enqueue(self, problem, standard, workspace, stream):
        """Addresses of the workspace and of the CUDA stream."""
        error = self.library.tessera_peer_attention(ctypes.byref(problem), int(standard), workspace, stream)
        if error is not None:
            raise RuntimeError(error.decode())
