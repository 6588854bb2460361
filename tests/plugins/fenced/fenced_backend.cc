// A plugin that brings a device of its own, with memory that the host cannot touch and streams that run
// behind the caller's back: a server that skips a copy, an event or a deep copy of host arrays is found out.
#include <limits>
#include <vector>

#include "backend/example/row_attention.h"
#include "tessera/backend.hpp"
#include "tests/plugins/fenced/fenced_device.h"

namespace {

using tessera::plugin::DTypeBit;

int64_t BytesOf(const tessera_tensor& tensor) {
  const int64_t element = tensor.dtype == TESSERA_DTYPE_FP32       ? 4
                          : tensor.dtype == TESSERA_DTYPE_FP8_E4M3 ? 1
                                                                   : 2;
  return tensor.num_elements * element;
}

// A problem that owns its host arrays, which are the caller's only for the duration of enqueue().
class OwnedProblem {
 public:
  explicit OwnedProblem(const tessera_attention_problem& problem)
      : problem_(problem), sequences_(problem.sequences, problem.sequences + problem.num_sequences) {
    const auto heads = static_cast<size_t>(problem.num_q_heads);
    if (problem.alibi_slopes != nullptr) slopes_.assign(problem.alibi_slopes, problem.alibi_slopes + heads);
    if (problem.sinks != nullptr) sinks_.assign(problem.sinks, problem.sinks + heads);
    OwnScales(problem.num_q_heads, problem_.q_scales, q_scales_);
    OwnScales(problem.num_kv_heads, problem_.k_scales, k_scales_);
    OwnScales(problem.num_kv_heads, problem_.v_scales, v_scales_);
  }

  // The problem with every device pointer made reachable. Throws for one that is not device memory.
  const tessera_attention_problem& Resolve(const fenced::Memory& memory) {
    ResolveTensor(memory, "q", problem_.q);
    ResolveTensor(memory, "k", problem_.k);
    ResolveTensor(memory, "v", problem_.v);
    ResolveTensor(memory, "o", problem_.o);
    if (problem_.lse.data != nullptr) {
      problem_.lse.data = memory.Reach(problem_.lse.data, problem_.lse.num_elements * 4, "lse");
    }
    for (tessera_sequence& sequence : sequences_) {
      if (sequence.mask != nullptr) sequence.mask = memory.Reach(sequence.mask, 1, "mask");
    }
    problem_.sequences = sequences_.data();
    problem_.alibi_slopes = slopes_.empty() ? nullptr : slopes_.data();
    problem_.sinks = sinks_.empty() ? nullptr : sinks_.data();
    return problem_;
  }

 private:
  static void ResolveTensor(const fenced::Memory& memory, const char* name, tessera_tensor& tensor) {
    if (tensor.num_elements > 0) tensor.data = memory.Reach(tensor.data, BytesOf(tensor), name);
  }

  // Points `scales` at a copy, (sequence, head).
  void OwnScales(int64_t heads, tessera_scales& scales, std::vector<float>& values) {
    if (scales.data == nullptr) return;
    for (int64_t n = 0; n < problem_.num_sequences; ++n) {
      for (int64_t h = 0; h < heads; ++h)
        values.push_back(scales.data[n * scales.sequence_stride + h * scales.head_stride]);
    }
    scales = {values.data(), heads, 1};
  }

  tessera_attention_problem problem_;
  std::vector<tessera_sequence> sequences_;
  std::vector<float> slopes_, sinks_, q_scales_, k_scales_, v_scales_;
};

class FencedBackend : public tessera::plugin::Backend {
 public:
  using Backend::Backend;

  tessera::plugin::Description Describe() const override {
    tessera::plugin::Description d{"fenced", "1.0", "test backend with a device of its own"};
    d.features = TESSERA_FEATURE_ALL;
    d.output_dtypes =
        DTypeBit(TESSERA_DTYPE_FP32) | DTypeBit(TESSERA_DTYPE_FP16) | DTypeBit(TESSERA_DTYPE_BF16);
    d.input_dtypes = d.output_dtypes | DTypeBit(TESSERA_DTYPE_FP8_E4M3);
    d.max_head_dim = kMaxHeadDim;
    return d;
  }

  const tessera_device_table* Device() override { return device_.table(); }

  // Asks for a little workspace, so that the caller must bring device memory for it.
  void Plan(const tessera_attention_problem&, tessera_plan& plan) const override {
    std::strcpy(plan.kernel, "fenced_row_attention");
    plan.tile_q = plan.tile_kv = plan.stages = plan.num_splits = plan.launches = 1;
    plan.workspace_bytes = kWorkspaceBytes;
  }

  void Enqueue(const tessera_plan&, const tessera_attention_problem& problem, void* workspace,
               tessera_stream* stream) override {
    auto owned = std::make_shared<OwnedProblem>(problem);
    fenced::StreamOf(stream).Push([this, owned, workspace] {
      if (++launches_ > kLaunches) device_.Lose();
      device_.CheckNotLost();
      const fenced::Memory& memory = device_.memory();
      std::memset(memory.Reach(workspace, kWorkspaceBytes, "workspace"), 0xff, kWorkspaceBytes);
      Attend(owned->Resolve(memory));
    });
  }

 private:
  static constexpr int64_t kWorkspaceBytes = 256;
#ifdef FENCED_LAUNCHES
  static constexpr int64_t kLaunches = FENCED_LAUNCHES;  // then the device is lost
#else
  static constexpr int64_t kLaunches = std::numeric_limits<int64_t>::max();
#endif

  static void Attend(const tessera_attention_problem& problem) {
    for (int64_t s = 0; s < problem.num_sequences; ++s) {
      const tessera_sequence& sequence = problem.sequences[s];
      for (int64_t i = 0; i < sequence.q_len; ++i) {
        for (int64_t h = 0; h < problem.num_q_heads; ++h) AttendRow(problem, sequence, i, h);
      }
    }
  }

  fenced::Device device_;
  int64_t launches_ = 0;  // on the stream's thread, and so on one
};

}  // namespace

TESSERA_EXPORT_BACKEND(FencedBackend)
