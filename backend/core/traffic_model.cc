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

// Query tiles of one head, and the K/V tiles of `tile_kv` keys (on multiples of tile_kv) that they walk
// through.
struct Schedule {
  int64_t tile_q, tile_kv;
};

// Of the first `count` query tiles, those t with t * tile_q + shift <= bound.
Int128 CountUpTo(Int128 bound, Int128 shift, Int128 tile_q, Int128 count) {
  return bound < shift ? 0 : std::min<Int128>((bound - shift) / tile_q + 1, count);
}

// Keys in K/V tiles that hold a key visible to queries [first, last].
int64_t KeysRead(const Sequence& s, const Schedule& schedule, int64_t first, int64_t last) {
  const int64_t begin = VisibleKeys(s, first).begin;
  const int64_t end = VisibleKeys(s, last).end;
  if (end <= begin) return 0;
  return std::min(RoundUp(end, schedule.tile_kv), s.kv_len) - RoundDown(begin, schedule.tile_kv);
}

// The sum of KeysRead over all query tiles of one head, without walking them: the range's ends advance by
// tile_q from tile to tile, so their rounded values sum to FloorSums between the tiles where they are
// clamped.
Int128 KeysReadByAllTiles(const Sequence& s, const Schedule& schedule) {
  const Int128 tile_q = schedule.tile_q, tile_kv = schedule.tile_kv, kv_len = s.kv_len;
  const Int128 whole = CeilDiv(s.q_len, schedule.tile_q) - 1;  // tiles before the last, all of tile_q queries

  Int128 ends = whole * kv_len;
  if (s.window_right >= 0) {
    const Int128 shift = tile_q + s.diagonal_offset + s.window_right;  // the end, for tile 0
    const Int128 zero = CountUpTo(0, shift, tile_q, whole);
    const Int128 partial = CountUpTo(kv_len / tile_kv * tile_kv, shift, tile_q, whole);
    const Int128 rising = FloorSum(partial - zero, tile_kv, tile_q, zero * tile_q + shift + tile_kv - 1);
    ends = tile_kv * rising + (whole - partial) * kv_len;
  }
  Int128 begins = 0;
  if (s.window_left >= 0) {
    const Int128 shift = Int128{s.diagonal_offset} - s.window_left;
    const Int128 zero = CountUpTo(0, shift, tile_q, whole);
    const Int128 partial = CountUpTo(kv_len - 1, shift, tile_q, whole);
    begins = tile_kv * FloorSum(partial - zero, tile_kv, tile_q, zero * tile_q + shift) +
             (whole - partial) * kv_len;
  }
  const auto last_tile_begin = static_cast<int64_t>(whole * tile_q);
  return ends - begins + KeysRead(s, schedule, last_tile_begin, s.q_len - 1);
}

// Bytes of K and V that one kv head of one sequence takes from device memory.
int64_t KvBytesOfHead(const AttentionProblem& p, const Sequence& s, const Plan& plan, int64_t l2_bytes) {
  if (s.q_len == 0 || s.kv_len == 0) return 0;
  const int64_t key_bytes = (int64_t{p.head_dim_qk} + p.head_dim_v) * DTypeSize(p.k.dtype);
  const int64_t group = p.num_q_heads / p.num_kv_heads;
  const Schedule schedule{plan.tile_q > 0 ? plan.tile_q : s.q_len,
                          plan.tile_kv > 0 ? plan.tile_kv : s.kv_len};

  const int64_t once = KeysRead(s, schedule, 0, s.q_len - 1);
  if (SaturatingMultiply(once, key_bytes) <= l2_bytes) return SaturatingMultiply(once, key_bytes);
  // Queries too few to fill a tile: the group's heads are packed into common tiles.
  const bool packed = s.q_len < schedule.tile_q;
  const Int128 keys = packed ? Int128{once} * CeilDiv(SaturatingMultiply(s.q_len, group), schedule.tile_q)
                             : KeysReadByAllTiles(s, schedule) * group;
  return SaturatingMultiply(SaturateToInt64(keys), key_bytes);
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
