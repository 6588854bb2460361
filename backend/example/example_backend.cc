// A Tessera backend in a shared library of its own: exact attention, a task for each query row and head.
#include "row_attention.h"

class ExampleBackend : public tessera::plugin::Backend {
 public:
  using Backend::Backend;

  tessera::plugin::Description Describe() const override {
    tessera::plugin::Description d{"example", "1.0", "one pass over the keys for each query row, in float64"};
    d.features = TESSERA_FEATURE_ALL;
    using tessera::plugin::DTypeBit;
    d.output_dtypes =
        DTypeBit(TESSERA_DTYPE_FP32) | DTypeBit(TESSERA_DTYPE_FP16) | DTypeBit(TESSERA_DTYPE_BF16);
    d.input_dtypes = d.output_dtypes | DTypeBit(TESSERA_DTYPE_FP8_E4M3);
    d.max_head_dim = kMaxHeadDim;
    return d;
  }

  void Plan(const tessera_attention_problem& /*problem*/, tessera_plan& plan) const override {
    std::strcpy(plan.kernel, "example_row_attention");
    plan.tile_q = plan.tile_kv = plan.stages = plan.num_splits = plan.launches = 1;
  }

  void Enqueue(const tessera_plan&, const tessera_attention_problem& problem, void* /*workspace*/,
               tessera_stream* stream) override {
    for (int64_t s = 0; s < problem.num_sequences; ++s) {
      const tessera_sequence& sequence = problem.sequences[s];
      ParallelFor(stream, sequence.q_len * problem.num_q_heads, [&](int64_t task, int /*worker*/) {
        AttendRow(problem, sequence, task / problem.num_q_heads, task % problem.num_q_heads);
      });
    }
  }
};

TESSERA_EXPORT_BACKEND(ExampleBackend)
