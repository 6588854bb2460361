#include "kernels/cpu/row_blocks.h"

#include <algorithm>
#include <limits>
#include <vector>

namespace tessera::kernels::cpu::standard {
namespace {

constexpr int64_t kSaturated = std::numeric_limits<int64_t>::max();

int64_t PairElements(const tessera_sequence& sequence, const BlockShape& shape) {
  return SaturatingMultiply(sequence.q_len, RoundUp(sequence.kv_len, shape.stride_multiple));
}

// Row blocks of the pairs that share the score buffer at one time.
class Wave {
 public:
  Wave(const tessera_attention_problem& problem, const BlockShape& shape)
      : problem_(problem), shape_(shape), capacity_(ScoreBufferElements(problem, shape)) {}

  // False when the pair does not fit in beside those already here.
  bool Add(int64_t sequence_index, int32_t q_head) {
    const tessera_sequence& sequence = problem_.sequences[sequence_index];
    const int64_t elements = PairElements(sequence, shape_);
    if (elements > capacity_ - used_) return false;
    const int32_t group = problem_.num_q_heads / problem_.num_kv_heads;
    for (int64_t row = 0; row < sequence.q_len; row += shape_.rows) {
      blocks_.push_back({.sequence = &sequence,
                         .sequence_index = sequence_index,
                         .q_head = q_head,
                         .kv_head = q_head / group,
                         .row_begin = row,
                         .row_end = std::min(row + shape_.rows, sequence.q_len),
                         .scores_offset = used_,
                         .scores_stride = RoundUp(sequence.kv_len, shape_.stride_multiple)});
    }
    used_ += elements;
    return true;
  }

  void Run(ThreadPool& pool, const std::function<void(const RowBlock&, int)>& body) {
    pool.ParallelFor(static_cast<int64_t>(blocks_.size()),
                     [&](int64_t task, int worker) { body(blocks_[static_cast<size_t>(task)], worker); });
    blocks_.clear();
    used_ = 0;
  }

 private:
  const tessera_attention_problem& problem_;
  const BlockShape& shape_;
  const int64_t capacity_;
  int64_t used_ = 0;
  std::vector<RowBlock> blocks_;
};

}  // namespace

int64_t ScoreBufferElements(const tessera_attention_problem& problem, const BlockShape& shape) {
  int64_t largest = 0, total = 0;
  for (int64_t s = 0; s < problem.num_sequences; ++s) {
    const int64_t pair = PairElements(problem.sequences[s], shape);
    largest = std::max(largest, pair);
    total = SaturatingAdd(total, SaturatingMultiply(pair, problem.num_q_heads));
  }
  return std::max(largest, std::min(total, shape.small_pair_elements));
}

void ForEachRowBlock(const tessera_attention_problem& problem, const BlockShape& shape, ThreadPool& pool,
                     const std::function<void(const RowBlock& block, int worker)>& body) {
  Wave wave(problem, shape);
  for (int64_t s = 0; s < problem.num_sequences; ++s) {
    // No tensor need hold anything for the heads of such a sequence: their number can be any, and their loop
    // hang.
    if (problem.sequences[s].q_len == 0) continue;
    for (int32_t head = 0; head < problem.num_q_heads; ++head) {
      if (wave.Add(s, head)) continue;
      wave.Run(pool, body);
      wave.Add(s, head);  // fits: the buffer holds the largest pair
    }
  }
  wave.Run(pool, body);
}

int64_t SaturatingMultiply(int64_t a, int64_t b) {
  int64_t product;
  return __builtin_mul_overflow(a, b, &product) ? kSaturated : product;
}

int64_t SaturatingAdd(int64_t a, int64_t b) {
  int64_t sum;
  return __builtin_add_overflow(a, b, &sum) ? kSaturated : sum;
}

int64_t RoundUp(int64_t value, int64_t multiple) { return (value + multiple - 1) / multiple * multiple; }

}  // namespace tessera::kernels::cpu::standard
