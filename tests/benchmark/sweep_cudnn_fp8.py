"""cuDNN's fp8 attention, through its Python frontend (the wheel nvidia-cudnn-frontend)."""

import math

import torch

Q, K, V, O, AMAX_S, AMAX_O = range(1, 7)  # tensors' ids in the graph
SCALES = ("descale_q", "descale_k", "descale_v", "descale_s", "scale_s", "scale_o")
FIRST_SCALE = 10
P_SCALE = 256.0  # of the probabilities, at most 1
FP8_MAX = 448.0


class CudnnFp8:
    """On fp8 tensors of one length, with one scale each, and an fp8 output: on Hopper cuDNN writes no other."""

    def __init__(self, workload, tensors):
        try:
            import cudnn
        except ImportError as error:
            raise RuntimeError(f"no cuDNN frontend: {error}") from None
        self.workload = workload
        # The mean: every head has about the same maximum.
        scale = sum(tensors.scales[0]["q"]) / len(tensors.scales[0]["q"])
        self.tensors = tensors.with_scale(scale)
        self.scale_values = dict(zip(SCALES, (scale, scale, scale, 1 / P_SCALE, P_SCALE, 1.0)))
        try:
            self.handle = cudnn.create_handle()
            cudnn.set_stream(self.handle, torch.cuda.current_stream().cuda_stream)
            self.graph = self.build(cudnn)
        except Exception as error:  # the frontend raises its own kinds, and RuntimeError's
            raise RuntimeError(f"cuDNN fp8: {error}") from None
        self.workspace = torch.empty(max(self.graph.get_workspace_size(), 1), dtype=torch.uint8, device="cuda")
        self.outputs = [torch.empty(copy["o"].shape, dtype=torch.float8_e4m3fn, device="cuda")
                        for copy in tensors.copies]
        self.amax = torch.zeros(2, 1, dtype=torch.float32, device="cuda")
        self.packs = self.make_packs()

    def declare(self, cudnn):
        """The graph, before anything asks for a GPU."""
        w = self.workload
        fp8, fp32 = cudnn.data_type.FP8_E4M3, cudnn.data_type.FLOAT
        graph = cudnn.pygraph(io_data_type=fp8, intermediate_data_type=fp32, compute_data_type=fp32)

        def tensor(uid, heads, length, dim):
            return graph.tensor(uid=uid, dim=(len(w.lengths), heads, length, dim),
                                stride=(length * heads * dim, dim, heads * dim, 1), data_type=fp8)

        q_len, kv_len = w.lengths[0]
        scales = {name: graph.tensor(uid=FIRST_SCALE + i, dim=(1, 1, 1, 1), stride=(1, 1, 1, 1), data_type=fp32)
                  for i, name in enumerate(SCALES)}
        mask = {"right_bound": 0, "diagonal_alignment": cudnn.diagonal_alignment.TOP_LEFT} if w.causal else {}
        o, _, amax_s, amax_o = graph.sdpa_fp8(
            q=tensor(Q, w.q_heads, q_len, w.dim), k=tensor(K, w.kv_heads, kv_len, w.dim),
            v=tensor(V, w.kv_heads, kv_len, w.v_dim), **scales, attn_scale=w.scale, generate_stats=False, **mask)
        o.set_uid(O).set_output(True).set_dim((len(w.lengths), w.q_heads, q_len, w.v_dim)).set_stride(
            (q_len * w.q_heads * w.v_dim, w.v_dim, w.q_heads * w.v_dim, 1)).set_data_type(fp8)
        for uid, amax in ((AMAX_S, amax_s), (AMAX_O, amax_o)):
            amax.set_uid(uid).set_output(True).set_dim((1, 1, 1, 1)).set_stride((1, 1, 1, 1)).set_data_type(fp32)
        graph.validate()
        graph.build_operation_graph()
        return graph

    def build(self, cudnn):
        graph = self.declare(cudnn)
        graph.create_execution_plans([cudnn.heur_mode.A, cudnn.heur_mode.FALLBACK])
        graph.check_support()
        graph.build_plans()
        return graph

    def make_packs(self):
        scales = {FIRST_SCALE + i: torch.full((1, 1, 1, 1), self.scale_values[name], device="cuda")
                  for i, name in enumerate(SCALES)}
        return [{Q: copy["q"], K: copy["k"], V: copy["v"], O: output, AMAX_S: self.amax[0], AMAX_O: self.amax[1],
                 **scales} for copy, output in zip(self.tensors.copies, self.outputs)]

    def __call__(self, turn):
        copy = turn % len(self.packs)
        self.graph.execute(self.packs[copy], self.workspace, handle=self.handle)
        return self.outputs[copy]

    def check(self, make_reference):
        """Errors of an output scaled to the range of e4m3; its own rounding is among them."""
        self(0)
        torch.cuda.synchronize()
        largest = self.amax[1].item()
        if math.isfinite(largest) and largest > 0:
            self.scale_values["scale_o"] = FP8_MAX / 2 / largest
            self.packs = self.make_packs()
        output = self(0).float() / self.scale_values["scale_o"]
        torch.cuda.synchronize()
        return make_reference(self.workload, self.tensors).errors_of(output)
