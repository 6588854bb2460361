#include "kernels/cpu/visibility.h"

#include <limits>

#include "kernels/cpu/element_access.h"

namespace tessera::kernels::cpu::standard {

void LoadMaskBias(const tessera_attention_problem& problem, const tessera_sequence& sequence, int32_t q_head,
                  int64_t i, int64_t key_begin, int64_t count, float* bias) {
  const int64_t stride = sequence.mask_kv_stride;
  const int64_t first = q_head * sequence.mask_head_stride + i * sequence.mask_q_stride + key_begin * stride;
  if (problem.mask_kind == TESSERA_MASK_ADDITIVE) {
    return LoadStrided(sequence.mask, problem.mask_dtype, first, stride, count, bias);
  }
  const auto* visible = static_cast<const uint8_t*>(sequence.mask) + first;
  for (int64_t c = 0; c < count; ++c) {
    bias[c] = visible[c * stride] != 0 ? 0.0f : -std::numeric_limits<float>::infinity();
  }
}

}  // namespace tessera::kernels::cpu::standard
