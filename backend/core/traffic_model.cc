// The modelled half of the ledger: what a fused pass moves, and what materialising the scores would.
#include <algorithm>

#include "backend/core/ledger.h"
#include "backend/core/saturating.h"

namespace tessera {
namespace {

constexpr int64_t kFp32Bytes = 4;

// Bytes of the tensors that any implementation moves once.
struct OperandBytes {
  int64_t q, kv, mask, o, lse;
};

int64_t MaskBytes(const AttentionProblem& p, const Sequence& s) {
  if (p.mask_kind == TESSERA_MASK_NONE) return 0;
  // A stride of 0 broadcasts: the same elements serve every index.
  const int64_t heads = s.mask_head_stride == 0 ? 1 : p.num_q_heads;
  const int64_t rows = s.mask_q_stride == 0 ? std::min<int64_t>(s.q_len, 1) : s.q_len;
  const int64_t columns = s.mask_kv_stride == 0 ? std::min<int64_t>(s.kv_len, 1) : s.kv_len;
  return SaturatingProduct(heads, rows, columns, DTypeSize(p.mask_dtype));
}

OperandBytes OperandBytesOf(const AttentionProblem& p) {
  OperandBytes bytes{};
  const ProblemSize size = SizeOf(p);
  const int64_t input_bytes = DTypeSize(p.q.dtype);
  bytes.q = SaturatingProduct(size.q_tokens, int64_t{p.num_q_heads}, int64_t{p.head_dim_qk}, input_bytes);
  bytes.kv = SaturatingProduct(size.kv_tokens, int64_t{p.num_kv_heads}, int64_t{p.head_dim_qk} + p.head_dim_v,
                               input_bytes);
  bytes.o =
      SaturatingProduct(size.q_tokens, int64_t{p.num_q_heads}, int64_t{p.head_dim_v}, DTypeSize(p.o.dtype));
  bytes.lse = WantsLse(p) ? SaturatingProduct(size.q_tokens, int64_t{p.num_q_heads}, kFp32Bytes) : 0;
  for (int64_t n = 0; n < p.num_sequences; ++n) {
    bytes.mask = SaturatingAdd(bytes.mask, MaskBytes(p, p.sequences[n]));
  }
  return bytes;
}

// Sum over i in [0, n) of floor((a * i + b) / m), for n, a, b >= 0, m > 0. Reduces (a, m) as Euclid's
// algorithm does: O(log m). The sum counts lattice points under a line; each step swaps the axes.
Int128 FloorSum(Int128 n, Int128 m, Int128 a, Int128 b) {
  Int128 sum = 0;
  while (n > 0) {
    sum += (n - 1) * n / 2 * (a / m) + n * (b / m);
    a %= m;
    b %= m;
    const Int128 top = a * n + b;
    if (top < m) break;
    n = top / m;
    b = top % m;
    std::swap(a, m);
  }
  return sum;
}

// How the scores of one (sequence, kv head) pair are walked: tile_q rows at a time, a row being a (query,
// head of the group) pair and a query's heads lying next to each other, along K/V tiles on multiples of
// tile_kv.
struct Schedule {
  int64_t group, tile_q, tile_kv;
};

// Of the tiles t in [0, count), those with t * tile_q + shift <= bound.
Int128 CountUpTo(Int128 bound, Int128 shift, Int128 tile_q, Int128 count) {
  return bound < shift ? 0 : std::min<Int128>((bound - shift) / tile_q + 1, count);
}

// Keys in K/V tiles that hold a key visible to one of the rows [first, last].
int64_t KeysRead(const Sequence& s, const Schedule& schedule, int64_t first, int64_t last) {
  const int64_t begin = VisibleKeys(s, first / schedule.group).begin;
  const int64_t end = VisibleKeys(s, last / schedule.group).end;
  if (end <= begin) return 0;
  return std::min(RoundUp(end, schedule.tile_kv), s.kv_len) - RoundDown(begin, schedule.tile_kv);
}

// The sum of KeysRead over all tiles of `rows` rows, without walking them. The keys that tile t reads begin
// and end at clamp(floor((t * tile_q + shift) / group), 0, kv_len), rounded to K/V tiles, for a shift of
// either end: a FloorSum over the tiles where nothing is clamped, and a constant elsewhere.
Int128 KeysReadByAllTiles(const Sequence& s, const Schedule& schedule, int64_t rows) {
  const Int128 group = schedule.group, tile_q = schedule.tile_q, tile_kv = schedule.tile_kv,
               kv_len = s.kv_len;
  const Int128 whole =
      CeilDiv(rows, schedule.tile_q) - 1;  // the last tile may be short: it is counted by itself

  Int128 ends = whole * kv_len;
  if (s.window_right >= 0) {
    const Int128 shift = tile_q - 1 + (Int128{s.diagonal_offset} + s.window_right + 1) * group;
    const Int128 zero = CountUpTo(group - 1, shift, tile_q, whole);
    const Int128 last_whole_tile = kv_len / tile_kv * tile_kv;  // ends beyond round up to kv_len
    const Int128 partial = CountUpTo(last_whole_tile * group + group - 1, shift, tile_q, whole);
    const Int128 offset = zero * tile_q + shift + (tile_kv - 1) * group;
    ends = tile_kv * FloorSum(partial - zero, tile_kv * group, tile_q, offset) + (whole - partial) * kv_len;
  }
  Int128 begins = 0;
  if (s.window_left >= 0) {
    const Int128 shift = (Int128{s.diagonal_offset} - s.window_left) * group;
    const Int128 zero = CountUpTo(group - 1, shift, tile_q, whole);
    // Tiles that begin at kv_len read nothing: they cancel the kv_len of their end.
    const Int128 partial = CountUpTo(kv_len * group - 1, shift, tile_q, whole);
    begins = tile_kv * FloorSum(partial - zero, tile_kv * group, tile_q, zero * tile_q + shift) +
             (whole - partial) * kv_len;
  }
  return ends - begins + KeysRead(s, schedule, static_cast<int64_t>(whole * tile_q), rows - 1);
}

// Bytes of K and V that one kv head of one sequence takes from device memory.
int64_t KvBytesOfHead(const AttentionProblem& p, const Sequence& s, const Plan& plan, int64_t l2_bytes) {
  if (s.q_len == 0 || s.kv_len == 0) return 0;
  const int64_t key_bytes = (int64_t{p.head_dim_qk} + p.head_dim_v) * DTypeSize(p.k.dtype);
  const int64_t group = p.num_q_heads / p.num_kv_heads;
  const int64_t rows = SaturatingMultiply(s.q_len, group);
  const Schedule schedule{group, plan.tile_q > 0 ? plan.tile_q : rows,
                          plan.tile_kv > 0 ? plan.tile_kv : s.kv_len};

  const int64_t once = SaturatingMultiply(KeysRead(s, schedule, 0, rows - 1), key_bytes);
  if (once <= l2_bytes) return once;
  return SaturatingMultiply(SaturateToInt64(KeysReadByAllTiles(s, schedule, rows)), key_bytes);
}

}  // namespace

int64_t StandardWorkspaceBytes(const AttentionProblem& problem) {
  return SaturatingProduct(SizeOf(problem).scores, int64_t{2}, kFp32Bytes);
}

int64_t StandardHbmBytes(const AttentionProblem& problem) {
  const OperandBytes bytes = OperandBytesOf(problem);
  // S written and read, P written and read.
  const int64_t scores = SaturatingProduct(SizeOf(problem).scores, int64_t{4}, kFp32Bytes);
  int64_t total = scores;
  for (int64_t part : {bytes.q, bytes.kv, bytes.mask, bytes.o, bytes.lse}) total = SaturatingAdd(total, part);
  return total;
}

ModelledTraffic FusedTraffic(const AttentionProblem& problem, const Plan& plan, int64_t l2_bytes) {
  const OperandBytes bytes = OperandBytesOf(problem);
  int64_t kv = 0;
  for (int64_t n = 0; n < problem.num_sequences; ++n) {
    const int64_t head = KvBytesOfHead(problem, problem.sequences[n], plan, l2_bytes);
    kv = SaturatingAdd(kv, SaturatingMultiply(head, problem.num_kv_heads));
  }
  int64_t partials = 0;
  if (plan.num_splits > 1) {
    partials = SaturatingProduct(SizeOf(problem).q_tokens, int64_t{problem.num_q_heads},
                                 int64_t{plan.num_splits}, int64_t{problem.head_dim_v} + 1, kFp32Bytes);
  }
  return {SaturatingAdd(SaturatingAdd(bytes.q, kv), SaturatingAdd(bytes.mask, partials)),
          SaturatingAdd(SaturatingAdd(bytes.o, bytes.lse), partials)};
}

}  // namespace tessera
