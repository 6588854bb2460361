// The `null` backend: O is zero and LSE -inf, as if no key were visible, and Q, K and V are never read. It
// measures what a request costs without its attention: transport, codec, queue, copies. Never chosen by
// `auto`.
#include <cmath>
#include <cstring>

#include "tessera/backend.hpp"

namespace {

using tessera::plugin::DTypeBit;

size_t ElementSize(tessera_dtype dtype) {
  switch (dtype) {
    case TESSERA_DTYPE_FP32:
      return 4;
    case TESSERA_DTYPE_FP16:
    case TESSERA_DTYPE_BF16:
      return 2;
    case TESSERA_DTYPE_FP8_E4M3:
      return 1;
    default:
      throw tessera::plugin::Error(TESSERA_UNIMPLEMENTED, "no output of dtype " + std::to_string(dtype));
  }
}

class NullBackend : public tessera::plugin::Backend {
 public:
  using Backend::Backend;

  tessera::plugin::Description Describe() const override {
    tessera::plugin::Description d{"null", "1.0", "writes zeros without reading Q, K or V, for load tests"};
    d.features = TESSERA_FEATURE_ALL;
    d.input_dtypes = d.output_dtypes = DTypeBit(TESSERA_DTYPE_FP32) | DTypeBit(TESSERA_DTYPE_FP16) |
                                       DTypeBit(TESSERA_DTYPE_BF16) | DTypeBit(TESSERA_DTYPE_FP8_E4M3);
    d.max_head_dim = INT32_MAX;
    return d;
  }

  void Plan(const tessera_attention_problem& /*problem*/, tessera_plan& plan) const override {
    std::strcpy(plan.kernel, "null");
    plan.launches = 1;
  }

  void ModelTraffic(const tessera_plan&, const tessera_attention_problem& problem,
                    tessera_traffic& traffic) const override {
    for (int64_t s = 0; s < problem.num_sequences; ++s) {
      const int64_t rows = problem.sequences[s].q_len * problem.num_q_heads;
      traffic.write_bytes += rows * problem.head_dim_v * static_cast<int64_t>(ElementSize(problem.o.dtype));
      if (problem.lse.num_elements > 0) traffic.write_bytes += rows * static_cast<int64_t>(sizeof(float));
    }
  }

  void Enqueue(const tessera_plan&, const tessera_attention_problem& problem, void* /*workspace*/,
               tessera_stream* /*stream*/) override {
    const size_t size = ElementSize(problem.o.dtype);
    const bool is_contiguous = problem.o.head_stride == problem.head_dim_v &&
                               problem.o.token_stride == problem.num_q_heads * problem.o.head_stride &&
                               problem.lse.data == nullptr;
    for (int64_t s = 0; s < problem.num_sequences; ++s) {
      const tessera_sequence& sequence = problem.sequences[s];
      if (is_contiguous) {  // as one, which is a good deal faster
        const auto token = static_cast<size_t>(problem.o.token_stride) * size;
        std::memset(static_cast<char*>(problem.o.data) + static_cast<size_t>(sequence.q_begin) * token, 0,
                    static_cast<size_t>(sequence.q_len) * token);
        continue;
      }
      for (int64_t i = 0; i < sequence.q_len; ++i) {
        for (int64_t h = 0; h < problem.num_q_heads; ++h) WriteRow(problem, sequence.q_begin, i, h, size);
      }
    }
  }

 private:
  static void WriteRow(const tessera_attention_problem& problem, int64_t begin, int64_t i, int64_t h,
                       size_t size) {
    const int64_t row = tessera::plugin::RowIndex(problem.o, begin, i, h);
    std::memset(static_cast<char*>(problem.o.data) + static_cast<size_t>(row) * size, 0,
                static_cast<size_t>(problem.head_dim_v) * size);
    if (problem.lse.data == nullptr) return;
    problem.lse.data[(begin + i) * problem.lse.token_stride + h * problem.lse.head_stride] = -INFINITY;
  }
};

}  // namespace

TESSERA_EXPORT_BACKEND(NullBackend)
