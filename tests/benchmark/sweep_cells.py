"""The cells of cuda_sweep.py: what is computed, by whom, and what is asked of it. Needs no PyTorch."""

import dataclasses
import math
import random

GROUPS = ("main", "gqa", "features", "ragged", "window", "fp8", "mixed")
LENGTHS = (512, 1024, 2048, 4096, 8192, 16384)
BATCH_TOKENS, HIDDEN = 16384, 2048
SLACK, AIM = 0.97, 1.05  # a cell passes at this share of its bar, and aims at this

# The ratio to cuDNN 9.19 on an H200 at which a kernel equals the best published one (cuDNN or FlashAttention-3, each
# measured there in turn with cuDNN), for the LENGTHS.
BARS = {
    (64, False): (1, 1, 1.03, 1.02, 1.11, 1.16), (64, True): (1, 1, 1, 1.05, 1.12, 1.17),
    (128, False): (1, 1, 1.02, 1.06, 1.08, 1.13), (128, True): (1, 1.05, 1.08, 1.11, 1.13, 1.16),
    (256, False): (1, 1.02, 1.02, 1.07, 1.09, 1.07), (256, True): (1, 1, 1.05, 1.11, 1.17, 1.17),
}
GQA_BARS = {8192: 1.15}
SOFTCAP = 30.0
WINDOW = 1024
# The rate of a feature over that of the plain kernel.
FEATURE_BARS = {"softcap": {64: 0.6, 128: 0.7, 256: 0.8}, "alibi": 0.85, "sinks": 0.85, "additive": 0.6,
                "boolean": None}
RAGGED_BAR = 0.85
WINDOW_BAR = 1.45  # time over the share of the causal kernel's that the FLOPs are
FP8_BAR = 900      # TFLOP/s, d 128, full, 16k
FP8_ERROR_LENGTHS, FP8_ERROR_GROWTH = (4096, 16384, 65536), 1.1


class NoGpu(RuntimeError):
    """There is nothing to measure on."""


@dataclasses.dataclass(frozen=True)
class Workload:
    """One attention problem on random data."""
    lengths: tuple            # (queries, keys) of each sequence, packed
    q_heads: int
    kv_heads: int
    dim: int                  # of q and k
    dim_v: int = 0            # 0: as dim
    dtype: str = "bf16"       # fp8: e4m3 with a scale per sequence and head, and a bf16 output
    causal: bool = False      # bottom-right aligned
    window: int = 0           # keys that a query sees at most, its own included; 0: all. With causal only
    softcap: float = 0
    logit_deviation: float = 1
    alibi: bool = False
    sinks: bool = False
    mask: str = ""            # "boolean" or "additive" (bf16): one (queries, keys) mask for all sequences and heads

    @property
    def v_dim(self):
        return self.dim_v or self.dim

    @property
    def scale(self):
        return self.logit_deviation / math.sqrt(self.dim)

    @property
    def is_uniform(self):
        return len(set(self.lengths)) == 1

    def visible_pairs(self):
        """Pairs of query and key; the square causal ones count half of the square, as is usual."""
        return sum(self._pairs(q_len, kv_len) for q_len, kv_len in self.lengths)

    def _pairs(self, q_len, kv_len):
        if not self.causal:
            return q_len * kv_len
        if q_len == kv_len and not self.window:
            return q_len * q_len / 2
        ends = (kv_len - q_len + i + 1 for i in range(q_len))
        return sum(max(0, end - max(0, end - self.window if self.window else 0)) for end in ends)

    @property
    def flops(self):
        return 2 * self.q_heads * (self.dim + self.v_dim) * self.visible_pairs()

    def tensors_key(self):
        """Workloads with the same key can share tensors."""
        return self.lengths, self.q_heads, self.kv_heads, self.dim, self.v_dim, self.dtype


@dataclasses.dataclass
class Cell:
    """Contenders that take turns, and what is asked of them."""
    group: str
    name: str
    runs: dict       # name -> Workload of our kernel
    criteria: list   # of Criterion()
    peers: tuple = ()  # "cudnn", "fa2", "cudnn_fp8": on the tensors of the first run
    quick: bool = False

    @property
    def dim(self):
        return next(iter(self.runs.values())).dim

    @property
    def full_name(self):
        return f"{self.group}/{self.name}"


def Criterion(of, over=None, kind="ratio", bar=None, slack=1.0, aim=None):
    """What is measured of the contender `of`, and its bar, a least value but for kind "cost".

    kind "ratio": its FLOP rate over that of `over`; "cost": the inverse, so how much longer than its share of FLOPs it
    takes; "rate": TFLOP/s. It passes at slack * bar (bar / slack for a cost); at aim * bar it is better than asked.
    """
    return {"of": of, "over": over, "kind": kind, "bar": bar, "slack": slack, "aim": aim}


def thousands(tokens):
    return f"{tokens // 1024}k" if tokens % 1024 == 0 else str(tokens)


def mask_name(causal):
    return "causal" if causal else "full"


def batch(length, tokens=BATCH_TOKENS):
    return ((length, length),) * (tokens // length)


def against_peers(of, bar=None):
    return [Criterion(of, "cudnn", bar=bar, slack=SLACK, aim=AIM), Criterion(of, "fa2")]


def main_cells():
    for (dim, causal), bars in BARS.items():
        for length, bar in zip(LENGTHS, bars):
            heads = HIDDEN // dim
            yield Cell("main", f"d{dim} {mask_name(causal)} {thousands(length)}",
                       {"ours": Workload(batch(length), heads, heads, dim, causal=causal)}, against_peers("ours", bar),
                       ("cudnn", "fa2"), quick=length in (1024, 4096, 16384))


def gqa_cells():
    for length in (2048, 8192, 32768):
        yield Cell("gqa", f"d128 32q/8kv causal {thousands(length)}",
                   {"ours": Workload(((length, length),), 32, 8, 128, causal=True)},
                   against_peers("ours", GQA_BARS.get(length)), ("cudnn", "fa2"), quick=length == 8192)


def feature_cells():
    for dim in (64, 128, 256):
        for causal in (False, True):
            for length in (4096, 8192):
                heads = HIDDEN // dim
                plain = Workload(batch(length), heads, heads, dim, causal=causal)
                features = {"softcap": {"softcap": SOFTCAP, "logit_deviation": SOFTCAP}, "alibi": {"alibi": True},
                            "sinks": {"sinks": True}, "additive": {"mask": "additive"}, "boolean": {"mask": "boolean"}}
                runs = {"plain": plain,
                        **{name: dataclasses.replace(plain, **change) for name, change in features.items()}}
                criteria = []
                for name, bar in FEATURE_BARS.items():
                    criteria.append(Criterion(name, "plain", bar=bar[dim] if isinstance(bar, dict) else bar))
                yield Cell("features", f"d{dim} {mask_name(causal)} {thousands(length)}", runs, criteria,
                           quick=length == 4096 and dim == 128)


def ragged_lengths(seed, count=64, shortest=16, longest=16384):
    """Spread evenly on a logarithmic scale, by chance."""
    draw = random.Random(seed)
    return [round(shortest * (longest / shortest) ** draw.random()) for _ in range(count)]


def uniform_like(lengths):
    """(length, count) of equal sequences with about as many tokens, and pairs of tokens."""
    tokens, pairs = sum(lengths), sum(length * length for length in lengths)
    length = max(128, round(pairs / tokens / 128) * 128)
    return length, max(1, round(pairs / length**2))


def ragged_cells(seed):
    lengths = ragged_lengths(seed)
    length, count = uniform_like(lengths)
    for causal in (False, True):
        ragged = Workload(tuple((n, n) for n in lengths), 16, 16, 128, causal=causal)
        uniform = dataclasses.replace(ragged, lengths=((length, length),) * count)
        yield Cell("ragged", f"d128 {mask_name(causal)} {count} x {length}",
                   {"ragged": ragged, "uniform": uniform}, [Criterion("ragged", "uniform", bar=RAGGED_BAR)],
                   quick=causal)


def window_cells():
    for dim in (64, 128, 256):
        causal = Workload(batch(16384), HIDDEN // dim, HIDDEN // dim, dim, causal=True)
        yield Cell("window", f"d{dim} {thousands(WINDOW)} of 16k",
                   {"window": dataclasses.replace(causal, window=WINDOW), "causal": causal},
                   [Criterion("window", "causal", kind="cost", bar=WINDOW_BAR)], quick=dim == 128)


def fp8_cells():
    for causal in (False, True):
        for length in (4096, 16384, 65536):
            fp8 = Workload(batch(length, max(length, BATCH_TOKENS)), 16, 16, 128, dtype="fp8", causal=causal)
            judged = [Criterion("fp8", kind="rate", bar=FP8_BAR)] if length == 16384 and not causal else []
            yield Cell("fp8", f"d128 {mask_name(causal)} {thousands(length)}",
                       {"fp8": fp8, "bf16": dataclasses.replace(fp8, dtype="bf16")},
                       [*judged, Criterion("fp8", "cudnn_fp8"), Criterion("fp8", "bf16")],
                       ("cudnn_fp8",), quick=length == 16384)


def mixed_cells():
    """What has no bar of its own: other head dims, fp16, short queries."""
    def cell(name, workload, quick=False):
        return Cell("mixed", name, {"ours": workload}, against_peers("ours"), ("cudnn", "fa2"), quick)

    for causal in (False, True):
        for dim, dim_v, heads in ((80, 80, 24), (96, 96, 20), (192, 192, 10), (192, 128, 16)):
            yield cell(f"d{dim}/{dim_v} {mask_name(causal)} 8k",
                       Workload(batch(8192), heads, heads, dim, dim_v, causal=causal), quick=dim_v == 128)
        yield cell(f"d128 fp16 {mask_name(causal)} 8k", Workload(batch(8192), 16, 16, 128, dtype="fp16", causal=causal))
    for queries in (16, 512):
        yield cell(f"d128 32q/8kv full {queries}x16k", Workload(((queries, 16384),) * 4, 32, 8, 128), quick=True)


def cells_of(group, seed):
    return {"main": main_cells, "gqa": gqa_cells, "features": feature_cells, "ragged": lambda: ragged_cells(seed),
            "window": window_cells, "fp8": fp8_cells, "mixed": mixed_cells}[group]()


def select(groups, seed, quick=False, head_dims=(), filters=()):
    """The cells of the groups whose full name has one of the filters."""
    return [cell for group in groups for cell in cells_of(group, seed)
            if (not quick or cell.quick) and (not head_dims or cell.dim in head_dims)
            and (not filters or any(text in cell.full_name for text in filters))]


def label_of(run, build, first):
    return run if build == first else f"{run}@{build}"


def criteria_of(cell, builds, ours_only):
    """The cell's, and for each further build the same and how it stands to the first."""
    builds = list(builds)
    own = [criterion for criterion in cell.criteria
           if not ours_only or criterion["over"] is None or criterion["over"] in cell.runs]
    criteria = list(own)
    for build in builds[1:]:
        for criterion in own:
            over = criterion["over"]
            criteria.append({**criterion, "of": label_of(criterion["of"], build, builds[0]),
                             "over": label_of(over, build, builds[0]) if over in cell.runs else over})
        criteria += [Criterion(label_of(run, build, builds[0]), run) for run in cell.runs]
    if ours_only and not criteria:
        criteria = [Criterion(run, kind="rate") for run in cell.runs]
    return criteria
