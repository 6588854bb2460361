#include "kernels/cpu/fused_attention.h"

#include <algorithm>
#include <atomic>
#include <cmath>

#include "kernels/cpu/fused_kernel.h"
#include "kernels/cpu/fused_units.inc.h"
#include "kernels/cpu/half.inc.h"

namespace tessera::kernels::cpu {
namespace {

constexpr int64_t kAlignment = 64;

int64_t RoundUp(int64_t value, int64_t multiple) { return (value + multiple - 1) / multiple * multiple; }
int64_t CeilDiv(int64_t value, int64_t divisor) { return (value + divisor - 1) / divisor; }

// The one place that knows which kernel serves what.
const FusedKernel& KernelOf(Isa isa, tessera_dtype dtype) {
#if defined(__x86_64__)
  switch (isa) {
    case Isa::kBaseline:
      break;
    case Isa::kAvx2:
      return kFusedAvx2;
    case Isa::kAvx512:
      return kFusedAvx512;
    case Isa::kAvx512Bf16:
      return dtype == TESSERA_DTYPE_BF16 ? kFusedAvx512Bf16 : kFusedAvx512;
    case Isa::kAmxBf16:
      return dtype == TESSERA_DTYPE_BF16 ? kFusedAmxBf16 : kFusedAvx512;
  }
#endif
  return kFusedBaseline;
}

// Keys that at least one of a sequence's query rows [begin, end) sees before dense masks.
struct KeySpan {
  int64_t begin, end;
};

int64_t SaturatingAdd(int64_t a, int64_t b) {
  int64_t sum;
  if (__builtin_add_overflow(a, b, &sum)) return b < 0 ? INT64_MIN : INT64_MAX;
  return sum;
}

KeySpan KeysOf(const tessera_sequence& sequence, int64_t query_begin, int64_t query_end) {
  KeySpan span{0, sequence.kv_len};
  if (sequence.window_left >= 0) {
    const int64_t first = SaturatingAdd(query_begin, sequence.diagonal_offset);
    span.begin = std::max<int64_t>(0, SaturatingAdd(first, -sequence.window_left));
  }
  if (sequence.window_right >= 0) {
    const int64_t last = SaturatingAdd(query_end - 1, sequence.diagonal_offset);
    span.end = std::min(span.end, SaturatingAdd(SaturatingAdd(last, sequence.window_right), 1));
  }
  span.begin = std::min(span.begin, sequence.kv_len);
  span.end = std::max(span.begin, span.end);
  return span;
}

// How a problem is cut into tasks: blocks of packed query rows of every (sequence, kv head), each block's
// keys in up to num_splits parts at tile boundaries.
class Schedule {
 public:
  Schedule(const tessera_attention_problem& problem, const FusedConfig& config)
      : problem_(problem),
        kernel_(KernelOf(config.isa, problem.q.dtype)),
        group_(problem.num_q_heads / problem.num_kv_heads),
        num_workers_(std::max(1, config.num_workers)) {
    ChooseShape(config);
    ChooseSplits(config);
  }

  const FusedKernel& kernel() const { return kernel_; }
  const TileShape& shape() const { return shape_; }
  int32_t num_workers() const { return num_workers_; }
  int32_t num_splits() const { return static_cast<int32_t>(num_splits_); }

  // Calls block(sequence, kv_head, row_begin, rows, span, parts) for every block of rows; the last rows of a
  // sequence, which see most keys under causal attention, first.
  template <typename F>
  void ForEachBlock(const F& block) const {
    for (int64_t s = 0; s < problem_.num_sequences; ++s) {
      const tessera_sequence& sequence = problem_.sequences[s];
      const int64_t total_rows = sequence.q_len * group_;
      for (int64_t b = CeilDiv(total_rows, shape_.tile_q) - 1; b >= 0; --b) {
        const int64_t begin = b * shape_.tile_q, end = std::min(total_rows, begin + shape_.tile_q);
        KeySpan span = KeysOf(sequence, begin / group_, (end - 1) / group_ + 1);
        span.begin = span.begin / shape_.tile_kv * shape_.tile_kv;
        const int64_t tiles = CeilDiv(span.end - span.begin, shape_.tile_kv);
        const int64_t parts = std::clamp<int64_t>(tiles, 1, num_splits_);
        for (int32_t head = 0; head < problem_.num_kv_heads; ++head) {
          block(sequence, head, begin, static_cast<int32_t>(end - begin), span, parts);
        }
      }
    }
  }

  int64_t num_tasks = 0;   // filled by Count()
  int64_t num_merges = 0;  // blocks whose keys are split
  int64_t partial_floats = 0;

  void Count() {
    num_tasks = num_merges = partial_floats = 0;
    if (num_splits_ == 1) {
      num_tasks = CountBlocks(shape_.tile_q);
      return;
    }
    ForEachBlock([&](const tessera_sequence&, int32_t, int64_t, int32_t rows, KeySpan, int64_t parts) {
      num_tasks += parts;
      if (parts == 1) return;
      num_merges += 1;
      partial_floats += parts * rows * (problem_.head_dim_v + 2);
    });
  }

 private:
  void ChooseShape(const FusedConfig& config) {
    shape_.head_dim_qk = problem_.head_dim_qk;
    shape_.head_dim_v = problem_.head_dim_v;
    shape_.tile_kv =
        config.tile_kv > 0 ? std::min(config.tile_kv, kernel_.max_tile_kv) : kernel_.default_tile_kv;
    shape_.tile_kv = static_cast<int32_t>(RoundUp(shape_.tile_kv, kKeyGranularity));
    shape_.tile_q = config.tile_q > 0 ? std::min(config.tile_q, kernel_.max_tile_q) : kernel_.max_tile_q;
    shape_.tile_q = static_cast<int32_t>(RoundUp(shape_.tile_q, kernel_.lanes));
    const auto fits = [&] { return kernel_.scratch_bytes(shape_) <= kMaxScratchPerWorker; };
    while (!fits() && shape_.tile_q > kernel_.block_q) {
      shape_.tile_q =
          static_cast<int32_t>(RoundUp(std::max(shape_.tile_q / 2, kernel_.block_q), kernel_.lanes));
    }
    while (!fits() && shape_.tile_kv > kKeyGranularity) {
      shape_.tile_kv = static_cast<int32_t>(RoundUp(shape_.tile_kv / 2, kKeyGranularity));
    }
    if (config.num_splits > 1) return;  // chosen together with tile_q
    // Fewer rows a task, while that shortens the longest worker's share: rows, and the packing each task
    // repeats.
    int64_t best_share = Share(shape_.tile_q);
    for (int32_t rows = shape_.tile_q / 2; rows >= kernel_.block_q; rows /= 2) {
      const auto candidate = static_cast<int32_t>(RoundUp(rows, kernel_.lanes));
      const int64_t share = Share(candidate);
      if (share >= best_share) continue;
      best_share = share;
      shape_.tile_q = candidate;
    }
  }

  int64_t CountBlocks(int32_t tile_q) const {
    int64_t blocks = 0;
    for (int64_t s = 0; s < problem_.num_sequences; ++s) {
      blocks += CeilDiv(problem_.sequences[s].q_len * group_, tile_q) * problem_.num_kv_heads;
    }
    return blocks;
  }

  int64_t Share(int32_t tile_q) const {
    return CeilDiv(CountBlocks(tile_q), num_workers_) * (tile_q + kernel_.pack_rows);
  }

  void ChooseSplits(const FusedConfig& config) {
    num_splits_ = std::max(1, config.num_splits);
    if (config.num_splits != 0) return;
    constexpr int64_t kMinTilesPerSplit = 4;
    int64_t longest = 0;
    for (int64_t s = 0; s < problem_.num_sequences; ++s)
      longest = std::max(longest, problem_.sequences[s].kv_len);
    const int64_t blocks = std::max<int64_t>(1, CountBlocks(shape_.tile_q));
    const int64_t wanted = blocks >= num_workers_ ? 1 : CeilDiv(num_workers_, blocks);
    num_splits_ = std::clamp<int64_t>(longest / (kMinTilesPerSplit * shape_.tile_kv), 1, wanted);
  }

  const tessera_attention_problem& problem_;
  const FusedKernel& kernel_;
  int64_t group_;
  int32_t num_workers_;
  TileShape shape_{};
  int64_t num_splits_ = 1;
};

// A block of rows whose keys were split: `parts` partials, each (rows, head_dim_v + 2), one after the other.
struct Merge {
  const tessera_sequence* sequence;
  const float* partials;
  int64_t row_begin;
  int64_t parts;
  int32_t kv_head;
  int32_t rows;
};

// Workspace: tasks, merges, partials, then the workers' scratch.
struct Layout {
  int64_t merges, partials, scratch, scratch_per_worker, total;

  explicit Layout(const Schedule& schedule) {
    merges = RoundUp(schedule.num_tasks * static_cast<int64_t>(sizeof(FusedTask)), kAlignment);
    partials = merges + RoundUp(schedule.num_merges * static_cast<int64_t>(sizeof(Merge)), kAlignment);
    scratch = partials + RoundUp(schedule.partial_floats * static_cast<int64_t>(sizeof(float)), kAlignment);
    scratch_per_worker = RoundUp(schedule.kernel().scratch_bytes(schedule.shape()), kAlignment);
    total = scratch + scratch_per_worker * std::min<int64_t>(schedule.num_workers(), schedule.num_tasks);
  }
};

void FillTasks(const tessera_attention_problem& problem, const Schedule& schedule, FusedTask* tasks,
               Merge* merges, float* partials) {
  const float logit_scale = problem.q.dtype == TESSERA_DTYPE_FP8_E4M3 ? 1.0f : std::fabs(problem.scale);
  bool uneven = false;
  FusedTask* next = tasks;
  schedule.ForEachBlock([&](const tessera_sequence& sequence, int32_t head, int64_t row_begin, int32_t rows,
                            KeySpan span, int64_t parts) {
    const int64_t tile_kv = schedule.shape().tile_kv;
    const int64_t tiles = CeilDiv(span.end - span.begin, tile_kv);
    if (parts > 1) *merges++ = {&sequence, partials, row_begin, parts, head, rows};
    for (int64_t part = 0; part < parts; ++part) {
      *next = {.problem = &problem,
               .sequence = &sequence,
               .partial = nullptr,
               .row_begin = row_begin,
               .key_begin = span.begin + tiles * part / parts * tile_kv,
               .key_end = std::min(span.end, span.begin + tiles * (part + 1) / parts * tile_kv),
               .kv_head = head,
               .rows = rows,
               .logit_scale = logit_scale};
      if (parts > 1) {
        next->partial = partials;
        partials += rows * (problem.head_dim_v + 2);
      }
      uneven |=
          next->rows != tasks->rows || next->key_end - next->key_begin != tasks->key_end - tasks->key_begin;
      ++next;
    }
  });
  if (!uneven) return;
  // Longest first: what is handed out last is small, and the workers finish together.
  std::stable_sort(tasks, next, [](const FusedTask& a, const FusedTask& b) {
    return (a.key_end - a.key_begin) * a.rows > (b.key_end - b.key_begin) * b.rows;
  });
}

template <typename T>
void StoreMerged(const float* sums, float factor, int32_t dim, T* out) {
  for (int32_t d = 0; d < dim; ++d) FromFloat(sums[d] * factor, out + d);
}

// Log-sum-exp merge of one row's partials. The sink joins here, once.
void MergeRow(const tessera_attention_problem& problem, const Merge& merge, int32_t r) {
  const int32_t dim = problem.head_dim_v;
  const int64_t part_stride = int64_t{merge.rows} * (dim + 2);
  const float* const row = merge.partials + int64_t{r} * (dim + 2);
  const int64_t group = problem.num_q_heads / problem.num_kv_heads;
  const int64_t token = merge.sequence->q_begin + (merge.row_begin + r) / group;
  const int64_t head = merge.kv_head * group + (merge.row_begin + r) % group;
  const float to_log2 = HasLogitFeatures(problem) ? kLog2E : 1.0f;

  float max = -kInfinity;
  for (int64_t part = 0; part < merge.parts; ++part) max = std::max(max, row[part * part_stride + dim]);
  float sums[kMaxHeadDim] = {};
  float total = 0.0f;
  for (int64_t part = 0; part < merge.parts; ++part) {
    const float* const partial = row + part * part_stride;
    const float part_max = partial[dim], part_sum = partial[dim + 1];
    if (part_max == -kInfinity && part_sum == 0.0f) continue;
    const float weight = part_max == -kInfinity ? 1.0f : std::exp2((part_max - max) * to_log2);
    total += weight * part_sum;
    for (int32_t d = 0; d < dim; ++d) sums[d] += weight * partial[d];
  }
  const float factor = FinishRow(problem, *merge.sequence, token, head, max, total);
  const int64_t offset = token * problem.o.token_stride + head * problem.o.head_stride;
  switch (problem.o.dtype) {
    case TESSERA_DTYPE_FP16:
      return StoreMerged(sums, factor, dim, static_cast<Half*>(problem.o.data) + offset);
    case TESSERA_DTYPE_BF16:
      return StoreMerged(sums, factor, dim, static_cast<BFloat16*>(problem.o.data) + offset);
    default:
      return StoreMerged(sums, factor, dim, static_cast<float*>(problem.o.data) + offset);
  }
}

}  // namespace

FusedLimits LimitsOf(Isa isa, tessera_dtype dtype) {
  const FusedKernel& kernel = KernelOf(isa, dtype);
  return {.granularity_q = kernel.lanes,
          .granularity_kv = kKeyGranularity,
          .efficient_tile_q = kernel.block_q,
          .min_tile_q = kernel.lanes,
          .max_tile_q = kernel.max_tile_q,
          .min_tile_kv = kKeyGranularity,
          .max_tile_kv = kernel.default_tile_kv,
          .q_element_bytes = kernel.operand_bytes,
          .kv_element_bytes = kernel.operand_bytes,
          .score_element_bytes = 4,
          .accumulator_element_bytes = 4};
}

const char* FusedKernelName(Isa isa, tessera_dtype dtype) {
  static constexpr const char* kNames[5][4] = {
      {"fused_attention_baseline_fp32", "fused_attention_baseline_fp16", "fused_attention_baseline_bf16",
       "fused_attention_baseline_fp8"},
      {"fused_attention_avx2_fp32", "fused_attention_avx2_fp16", "fused_attention_avx2_bf16",
       "fused_attention_avx2_fp8"},
      {"fused_attention_avx512_fp32", "fused_attention_avx512_fp16", "fused_attention_avx512_bf16",
       "fused_attention_avx512_fp8"},
      {"fused_attention_avx512_fp32", "fused_attention_avx512_fp16", "fused_attention_avx512_dot_bf16",
       "fused_attention_avx512_fp8"},
      {"fused_attention_avx512_fp32", "fused_attention_avx512_fp16", "fused_attention_amx_bf16",
       "fused_attention_avx512_fp8"},
  };
  return kNames[static_cast<int>(isa)][dtype - TESSERA_DTYPE_FP32];
}

FusedTiles TilesOf(const tessera_attention_problem& problem, const FusedConfig& config) {
  FusedConfig tried = config;
  for (;;) {  // tile_q falls each time: halves of what was chosen are tried again
    const Schedule schedule(problem, tried);
    const TileShape& shape = schedule.shape();
    if (shape.tile_q == tried.tile_q && shape.tile_kv == tried.tile_kv &&
        schedule.num_splits() == tried.num_splits) {
      return {shape.tile_q, shape.tile_kv, schedule.num_splits(), schedule.kernel().scratch_bytes(shape)};
    }
    tried.tile_q = shape.tile_q;
    tried.tile_kv = shape.tile_kv;
    tried.num_splits = schedule.num_splits();
  }
}

int64_t FusedWorkspaceBytes(const tessera_attention_problem& problem, const FusedConfig& config) {
  Schedule schedule(problem, config);
  schedule.Count();
  return Layout(schedule).total;
}

void FusedAttention(const tessera_attention_problem& problem, const FusedConfig& config, std::byte* workspace,
                    ThreadPool& pool) {
  Schedule schedule(problem, config);
  schedule.Count();
  if (schedule.num_tasks == 0) return;
  const Layout layout(schedule);
  auto* const tasks = reinterpret_cast<FusedTask*>(workspace);
  auto* const merges = reinterpret_cast<Merge*>(workspace + layout.merges);
  auto* const partials = reinterpret_cast<float*>(workspace + layout.partials);
  FillTasks(problem, schedule, tasks, merges, partials);

  // Each parallel body is a worker of ours that draws tasks until none is left: scratch belongs to it,
  // whatever the size of the pool.
  std::atomic<int64_t> next_task{0};
  const int64_t workers = std::min<int64_t>(schedule.num_workers(), schedule.num_tasks);
  pool.ParallelFor(workers, [&](int64_t worker, int) {
    std::byte* const scratch = workspace + layout.scratch + worker * layout.scratch_per_worker;
    for (;;) {
      const int64_t task = next_task.fetch_add(1, std::memory_order_relaxed);
      if (task >= schedule.num_tasks) return;
      schedule.kernel().run(tasks[task], schedule.shape(), scratch);
    }
  });
  if (schedule.num_merges == 0) return;
  pool.ParallelFor(schedule.num_merges, [&](int64_t index, int) {
    for (int32_t r = 0; r < merges[index].rows; ++r) MergeRow(problem, merges[index], r);
  });
}

}  // namespace tessera::kernels::cpu
