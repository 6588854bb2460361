"""Tensors of a sweep's workloads, our kernels on them, and PyTorch's."""

import copy
import ctypes
import math

import torch

import peer_library
from gpu_timing import ROTATED_BYTES

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16, "fp8": torch.float8_e4m3fn}
FP8_MAX = 448.0


def quantise(tensor, lengths):
    """(tokens, heads, dim) in e4m3, and the scales, sequence by sequence and head by head."""
    quantised = torch.empty(tensor.shape, dtype=torch.float8_e4m3fn, device=tensor.device)
    scales, begin = [], 0
    for length in lengths:
        part = tensor[begin:begin + length]
        scale = part.abs().amax(dim=(0, 2)).clamp(min=1e-6) / FP8_MAX
        quantised[begin:begin + length] = (part / scale[:, None]).clamp(-FP8_MAX, FP8_MAX).to(torch.float8_e4m3fn)
        scales += scale.tolist()
        begin += length
    return quantised, scales


class Tensors:
    """q, k, v (tokens, heads, dim), random, and o, in enough copies that no launch finds its tensors in L2."""

    def __init__(self, workload, device="cuda", rotated_bytes=ROTATED_BYTES):
        self.workload, self.device = workload, device
        self.copies, self.scales = [], []
        while not self.copies or len(self.copies) * self.bytes() < rotated_bytes:
            self.add_copy()

    def add_copy(self):
        w = self.workload
        q_lengths, kv_lengths = zip(*w.lengths)
        tensors, scales = {}, {}
        for name, lengths, heads, dim in (("q", q_lengths, w.q_heads, w.dim), ("k", kv_lengths, w.kv_heads, w.dim),
                                          ("v", kv_lengths, w.kv_heads, w.v_dim)):
            shape = (sum(lengths), heads, dim)
            if w.dtype == "fp8":
                drawn = torch.randn(shape, device=self.device)
                tensors[name], scales[name] = quantise(drawn, lengths)
            else:
                tensors[name] = torch.randn(shape, device=self.device, dtype=DTYPES[w.dtype])
        out = torch.bfloat16 if w.dtype == "fp8" else DTYPES[w.dtype]
        tensors["o"] = torch.empty((sum(q_lengths), w.q_heads, w.v_dim), device=self.device, dtype=out)
        self.copies.append(tensors)
        self.scales.append(scales)

    def bytes(self):
        return sum(tensor.numel() * tensor.element_size() for tensor in self.copies[0].values())

    def with_scale(self, scale):
        """The same tensors, every fp8 element times `scale`."""
        view = copy.copy(self)
        view.scales = [{name: [scale] * len(values) for name, values in scales.items()} for scales in self.scales]
        return view

    def dequantised(self, name, sequence, tokens, heads):
        """(tokens, heads, dim) of the first copy in float64."""
        tensor = self.copies[0][name]
        values = tensor[tokens][:, heads].float().double()
        if self.scales[0]:
            begin = sequence * tensor.shape[1]
            scales = self.scales[0][name][begin:begin + tensor.shape[1]][heads]
            values *= torch.tensor(scales, dtype=torch.float64, device=self.device)[:, None]
        return values

    def batched(self, name, copy):
        """(batch, heads, length, dim) of uniform sequences."""
        tensor = self.copies[copy][name]
        return tensor.view(len(self.workload.lengths), -1, *tensor.shape[1:]).transpose(1, 2)


class Extras:
    """Slopes, sinks and masks of a workload."""

    def __init__(self, workload, copies, device="cuda"):
        heads = workload.q_heads
        self.slopes = [2 ** (-8 * (h + 1) / heads) for h in range(heads)] if workload.alibi else None
        keys = max(keys for _, keys in workload.lengths)
        # About as heavy as all keys together.
        self.sinks = (torch.randn(heads) + math.log(keys)).tolist() if workload.sinks else None
        self.masks = []
        if workload.mask:
            shape = workload.lengths[0]
            for _ in range(copies):
                drawn = torch.randn(shape, device=device, dtype=torch.bfloat16)
                self.masks.append(drawn > 0 if workload.mask == "boolean" else drawn)

    def mask_rows(self, rows):
        if not self.masks:
            return None
        mask = self.masks[0][rows]
        return mask if mask.dtype == torch.bool else mask.double()


def tensor_view(tensor, dtype):
    return peer_library.Tensor(tensor.data_ptr(), tensor.numel(), tensor.stride(0), tensor.stride(1),
                               peer_library.DTYPES[dtype])


def make_problem(workload, tensors, extras, copy, lse=None):
    """tessera_attention_problem; keeps what it points to, but for device memory."""
    w, t = workload, tensors.copies[copy]
    sequences = (peer_library.Sequence * len(w.lengths))()
    q_begin = kv_begin = 0
    for sequence, (q_len, kv_len) in zip(sequences, w.lengths):
        sequence.q_begin, sequence.q_len, sequence.kv_begin, sequence.kv_len = q_begin, q_len, kv_begin, kv_len
        sequence.diagonal_offset = kv_len - q_len
        sequence.window_left = w.window - 1 if w.window else -1
        sequence.window_right = 0 if w.causal else -1
        if extras.masks:
            sequence.mask = extras.masks[copy].data_ptr()
            sequence.mask_q_stride, sequence.mask_kv_stride = kv_len, 1
        q_begin, kv_begin = q_begin + q_len, kv_begin + kv_len
    problem = peer_library.Problem()
    problem.struct_size = ctypes.sizeof(problem)
    problem.num_q_heads, problem.num_kv_heads = w.q_heads, w.kv_heads
    problem.head_dim_qk, problem.head_dim_v = w.dim, w.v_dim
    problem.scale, problem.softcap = w.scale, w.softcap
    for name in ("q", "k", "v"):
        setattr(problem, name, tensor_view(t[name], w.dtype))
    problem.o = tensor_view(t["o"], "bf16" if w.dtype == "fp8" else w.dtype)
    if lse is not None:
        problem.lse = peer_library.Lse(lse.data_ptr(), lse.numel(), lse.stride(0), lse.stride(1))
    problem.mask_kind = peer_library.MASKS[w.mask]
    if w.mask:
        problem.mask_dtype = peer_library.DTYPES["bool" if w.mask == "boolean" else "bf16"]
    if w.alibi:
        problem.alibi_slopes = peer_library.floats(extras.slopes)
    if w.sinks:
        problem.sinks = peer_library.floats(extras.sinks)
    problem.sequences, problem.num_sequences = sequences, len(sequences)
    for name, heads in (("q", w.q_heads), ("k", w.kv_heads), ("v", w.kv_heads)):
        if tensors.scales[copy]:
            setattr(problem, f"{name}_scales",
                    peer_library.Scales(peer_library.floats(tensors.scales[copy][name]), heads, 1))
    return problem


class Ours:
    """Our fused kernel, of one build of the library."""

    def __init__(self, library, workload, tensors, extras):
        self.library, self.workload, self.tensors, self.extras = library, workload, tensors, extras
        self.problems = [make_problem(workload, tensors, extras, copy) for copy in range(len(tensors.copies))]
        self.kernel, self.workspace_bytes = library.plan(self.problems[0])
        self.workspace = torch.empty(max(self.workspace_bytes, 16), dtype=torch.uint8, device=tensors.device)
        self.stream = torch.cuda.current_stream().cuda_stream

    def __call__(self, turn):
        self.enqueue(self.problems[turn % len(self.problems)])

    def enqueue(self, problem):
        self.library.enqueue(problem, False, self.workspace.data_ptr(), self.stream)

    def run_poisoned(self, lse=None):
        """The output of the first copy, over NaN."""
        o = self.tensors.copies[0]["o"]
        o.fill_(math.nan)
        if lse is None:
            self.enqueue(self.problems[0])
        else:
            lse.fill_(math.nan)
            self.enqueue(make_problem(self.workload, self.tensors, self.extras, 0, lse))
        torch.cuda.synchronize()
        return o

    def check(self, reference, failure_of):
        """Errors, and what is wrong or an empty string."""
        first = self.run_poisoned().clone()
        second = self.run_poisoned()
        same = torch.equal(first.view(torch.uint8), second.view(torch.uint8))
        lse = torch.empty(first.shape[:2], device=first.device)
        self.run_poisoned(lse)
        errors = reference.errors_of(first, lse)
        unwritten = first.isnan().sum().item()
        wrong = [f"{unwritten} of {first.numel()} elements are NaN or were not written"] if unwritten else []
        wrong += [] if same else ["two runs differ"]
        wrong += [text for text in [failure_of(self.workload, errors)] if text]
        return errors, "; ".join(wrong)


class Sdpa:
    """PyTorch's scaled_dot_product_attention by one of its backends, on sequences of one length."""

    def __init__(self, backend, workload, tensors):
        from torch.nn.attention import SDPBackend, sdpa_kernel
        if not workload.is_uniform or workload.causal and workload.lengths[0][0] != workload.lengths[0][1]:
            raise RuntimeError("needs sequences of one length, and a square mask")
        self.scope = lambda: sdpa_kernel([getattr(SDPBackend, backend)])  # slow to enter: once for many calls
        self.causal, self.gqa = workload.causal, workload.q_heads != workload.kv_heads
        self.inputs = [[tensors.batched(name, copy) for name in ("q", "k", "v")]
                       for copy in range(len(tensors.copies))]

    def __call__(self, turn):
        q, k, v = self.inputs[turn % len(self.inputs)]
        return torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=self.causal, enable_gqa=self.gqa)

    def check(self, reference):
        with self.scope():
            o = self(0).transpose(1, 2)
        torch.cuda.synchronize()
        return reference.errors_of(o.reshape(-1, *o.shape[2:]))
