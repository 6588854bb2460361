// The modelled half of the ledger: what a fused pass moves, and what materialising the scores would.
#include <algorithm>
#include <limits>

#include "backend/core/key_walk.h"
#include "backend/core/launch_replay.h"
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

int64_t ToInt64(double value) {
  return value < 0x1p63 ? static_cast<int64_t>(value) : std::numeric_limits<int64_t>::max();
}

// Keys that one kv head of one sequence takes from memory if tiles run one after the other.
int64_t KeysInTurn(const Sequence& s, const Schedule& schedule, int64_t once, int64_t key_bytes,
                   int64_t cache_bytes) {
  if (SaturatingMultiply(once, key_bytes) <= cache_bytes) return once;
  return SaturateToInt64(KeysReadByAllTiles(s, schedule));
}

// Bytes of K and V that are taken from memory.
int64_t KeyValueBytes(const AttentionProblem& p, const Plan& plan, int64_t cache_bytes,
                      const GpuSchedule& gpu) {
  const int64_t key_bytes = KeyBytes(p);
  int64_t keys = 0;
  for (int64_t n = 0; n < p.num_sequences; ++n) {
    const Sequence& s = p.sequences[n];
    if (s.q_len == 0 || s.kv_len == 0) continue;
    const Schedule schedule = ScheduleOf(p, s, plan);
    int64_t of_head = Length(KeysRead(s, schedule, 0, RowsOf(s, schedule) - 1));
    if (gpu.concurrent_tiles <= 1) of_head = KeysInTurn(s, schedule, of_head, key_bytes, cache_bytes);
    keys = SaturatingAdd(keys, SaturatingMultiply(of_head, p.num_kv_heads));
  }
  if (gpu.concurrent_tiles > 1) {
    keys = SaturatingAdd(keys, ToInt64(KeysReadAgain(p, plan, cache_bytes, gpu)));
  }
  return SaturatingMultiply(keys, key_bytes);
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

ModelledTraffic FusedTraffic(const AttentionProblem& problem, const Plan& plan, int64_t cache_bytes,
                             const GpuSchedule& gpu) {
  const OperandBytes bytes = OperandBytesOf(problem);
  const int64_t kv = KeyValueBytes(problem, plan, cache_bytes, gpu);
  int64_t partials = 0;
  if (plan.num_splits > 1) {
    partials = SaturatingProduct(SizeOf(problem).q_tokens, int64_t{problem.num_q_heads},
                                 int64_t{plan.num_splits}, int64_t{problem.head_dim_v} + 1, kFp32Bytes);
  }
  return {SaturatingAdd(SaturatingAdd(bytes.q, kv), SaturatingAdd(bytes.mask, partials)),
          SaturatingAdd(SaturatingAdd(bytes.o, bytes.lse), partials)};
}

}  // namespace tessera
