#include "kernels/cpu/fp32_matrices.h"

#include <algorithm>
#include <limits>

#include "kernels/cpu/element_access.h"
#include "kernels/cpu/row_blocks.h"

namespace tessera::kernels::cpu::standard {
namespace {

constexpr int64_t kTokensPerTask = 128;

// A leading dimension is a 32-bit int, and at least the row's length.
bool IsBlasMatrix(const tessera_tensor& tensor, int32_t dim) {
  return tensor.dtype == TESSERA_DTYPE_FP32 && tensor.token_stride >= dim &&
         tensor.token_stride <= std::numeric_limits<int32_t>::max();
}

}  // namespace

Fp32Matrices::Fp32Matrices(const tessera_attention_problem& problem, const tessera_tensor& tensor,
                           TokenSide side, int32_t heads, int32_t dim)
    : problem_(problem), tensor_(tensor), side_(side), heads_(heads), dim_(dim) {
  if (IsBlasMatrix(tensor, dim)) return;
  for (int64_t s = 0; s < problem.num_sequences; ++s) {
    copy_offsets_.push_back(copy_elements_);
    copy_elements_ = SaturatingAdd(copy_elements_, SaturatingMultiply(length(s), int64_t{heads} * dim));
  }
}

int64_t Fp32Matrices::begin(int64_t sequence) const {
  const tessera_sequence& s = problem_.sequences[sequence];
  return side_ == TokenSide::kQuery ? s.q_begin : s.kv_begin;
}

int64_t Fp32Matrices::length(int64_t sequence) const {
  const tessera_sequence& s = problem_.sequences[sequence];
  return side_ == TokenSide::kQuery ? s.q_len : s.kv_len;
}

void Fp32Matrices::Convert(float* memory, ThreadPool& pool) {
  if (copy_elements_ == 0) return;
  copy_ = memory;
  struct Task {
    int64_t sequence, token_begin;
  };
  std::vector<Task> tasks;
  for (int64_t s = 0; s < problem_.num_sequences; ++s) {
    for (int64_t t = 0; t < length(s); t += kTokensPerTask) tasks.push_back({s, t});
  }
  pool.ParallelFor(static_cast<int64_t>(tasks.size()), [&](int64_t index, int) {
    const Task& task = tasks[static_cast<size_t>(index)];
    const int64_t tokens = length(task.sequence);
    const int64_t token_end = std::min(task.token_begin + kTokensPerTask, tokens);
    float* copy = memory + copy_offsets_[static_cast<size_t>(task.sequence)];
    for (int32_t head = 0; head < heads_; ++head) {
      for (int64_t t = task.token_begin; t < token_end; ++t) {
        LoadRow(tensor_, begin(task.sequence) + t, head, dim_, copy + (head * tokens + t) * dim_);
      }
    }
  });
}

Fp32Matrix Fp32Matrices::Get(int64_t sequence, int32_t head) const {
  if (copy_ != nullptr) {
    const float* copy = copy_ + copy_offsets_[static_cast<size_t>(sequence)];
    return {copy + head * length(sequence) * dim_, dim_};
  }
  const auto* data = static_cast<const float*>(tensor_.data);
  return {data + begin(sequence) * tensor_.token_stride + head * tensor_.head_stride, tensor_.token_stride};
}

}  // namespace tessera::kernels::cpu::standard
