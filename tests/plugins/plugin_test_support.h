// What the plugin tests share: a host with one worker, a stand-in for the CPU device, small problems.
#pragma once

#include <cmath>
#include <cstdlib>
#include <random>
#include <string>
#include <vector>

#include "backend/core/attention_problem.h"
#include "backend/core/device.h"
#include "backend/core/error.h"
#include "backend/core/plugin_loader.h"
#include "backend/core/registry.h"
#include "tessera/backend.h"

namespace tessera {

// The CPU device as far as a plugin on the host needs it: an id, and no memory of its own.
class StubDevice : public Device {
 public:
  const std::string& id() const override { return id_; }
  bool host_accessible() const override { return true; }
  absl::StatusOr<DeviceInfo> Info() const override { return DeviceInfo{}; }
  absl::StatusOr<void*> Allocate(MemoryKind, size_t) override { return Unused(); }
  void Free(MemoryKind, void*) override {}
  absl::StatusOr<tessera_stream*> CreateStream() override { return Unused(); }
  void DestroyStream(tessera_stream*) override {}
  absl::Status CopyAsync(void*, const void*, size_t, CopyKind, tessera_stream*) override { return Unused(); }
  absl::StatusOr<tessera_event*> CreateEvent() override { return Unused(); }
  void DestroyEvent(tessera_event*) override {}
  absl::Status RecordEvent(tessera_event*, tessera_stream*) override { return Unused(); }
  absl::Status WaitEvent(tessera_stream*, tessera_event*) override { return Unused(); }
  absl::Status SynchronizeEvent(tessera_event*) override { return Unused(); }
  absl::StatusOr<double> ElapsedMicroseconds(tessera_event*, tessera_event*) override { return Unused(); }

 private:
  static absl::Status Unused() { return absl::UnimplementedError("the stub device has no memory"); }
  std::string id_ = "cpu";
};

inline void RunSerially(tessera_stream*, int64_t num_tasks, void (*body)(void*, int64_t, int32_t),
                        void* context) {
  for (int64_t task = 0; task < num_tasks; ++task) body(context, task, 0);
}

inline const tessera_host& SerialHost() {
  static const tessera_host host = {sizeof(tessera_host), TESSERA_ABI_VERSION, &RunSerially,
                                    [](tessera_stream*) -> int32_t { return 1; }};
  return host;
}

// Path of a plugin that tests/plugins built.
inline std::string PluginPath(const std::string& name) {
  return std::string(TESSERA_TEST_PLUGIN_DIR "/") + name;
}

// A registry with one loaded plugin.
struct LoadedPlugin {
  explicit LoadedPlugin(const std::string& file)
      : status(LoadPlugin(PluginPath(file), host_device, SerialHost(), registry)) {}

  // The plugin's backend; null when the load failed.
  Backend* backend() const { return registry.backends().empty() ? nullptr : registry.backends().front(); }

  StubDevice host_device;
  BackendRegistry registry;
  absl::Status status;
};

inline std::string ReasonOf(const absl::Status& status) {
  const auto detail = GetErrorDetail(status);
  return detail.has_value() ? detail->reason : "";
}

// fp32, two causal sequences of 3 and 5 tokens, two query heads over one kv head, head_dim 8; random tensors.
struct SmallProblem {
  static constexpr int64_t kTokens = 8;
  static constexpr int64_t kQHeads = 2;
  static constexpr int64_t kDim = 8;

  SmallProblem() {
    std::mt19937 random(20240607);
    std::normal_distribution<float> normal;
    for (std::vector<float>* tensor : {&q, &k, &v}) {
      for (float& x : *tensor) x = normal(random);
    }
    problem.struct_size = sizeof(problem);
    problem.num_q_heads = kQHeads;
    problem.num_kv_heads = 1;
    problem.head_dim_qk = problem.head_dim_v = kDim;
    problem.scale = 0.5f;
    problem.q = View(q, kQHeads);
    problem.k = View(k, 1);
    problem.v = View(v, 1);
    problem.o = View(o, kQHeads);
    problem.lse = {lse.data(), static_cast<int64_t>(lse.size()), kQHeads, 1};
    problem.sequences = sequences.data();
    problem.num_sequences = static_cast<int64_t>(sequences.size());
  }

  static tessera_tensor View(std::vector<float>& tensor, int64_t heads) {
    return {tensor.data(), static_cast<int64_t>(tensor.size()), heads * kDim, kDim, TESSERA_DTYPE_FP32};
  }

  static Sequence Causal(int64_t begin, int64_t length) {
    Sequence sequence{};
    sequence.q_begin = sequence.kv_begin = begin;
    sequence.q_len = sequence.kv_len = length;
    sequence.window_left = -1;
    return sequence;
  }

  // Largest |o - expected| or |lse - expected| over all rows, by two passes in float64.
  double WorstError() const {
    double worst = 0;
    for (const Sequence& sequence : sequences) {
      for (int64_t i = 0; i < sequence.q_len; ++i) {
        for (int64_t h = 0; h < kQHeads; ++h) worst = std::fmax(worst, RowError(sequence, i, h));
      }
    }
    return worst;
  }

  std::vector<float> q = std::vector<float>(kTokens * kQHeads * kDim);
  std::vector<float> k = std::vector<float>(kTokens * kDim);
  std::vector<float> v = std::vector<float>(kTokens * kDim);
  std::vector<float> o = std::vector<float>(kTokens * kQHeads * kDim, -7.0f);
  std::vector<float> lse = std::vector<float>(kTokens * kQHeads, -7.0f);
  std::vector<Sequence> sequences = {Causal(0, 3), Causal(3, 5)};
  AttentionProblem problem{};

 private:
  double RowError(const Sequence& sequence, int64_t i, int64_t h) const {
    const int64_t row = (sequence.q_begin + i) * kQHeads + h;
    std::vector<double> weights;
    double sum = 0;
    for (int64_t j = 0; j <= i; ++j) {
      double dot = 0;
      for (int64_t d = 0; d < kDim; ++d)
        dot += double{q[row * kDim + d]} * k[(sequence.kv_begin + j) * kDim + d];
      weights.push_back(std::exp(dot * problem.scale));
      sum += weights.back();
    }
    double worst = std::fabs(lse[row] - std::log(sum));
    for (int64_t d = 0; d < kDim; ++d) {
      double expected = 0;
      for (int64_t j = 0; j <= i; ++j) expected += weights[j] / sum * v[(sequence.kv_begin + j) * kDim + d];
      worst = std::fmax(worst, std::fabs(o[row * kDim + d] - expected));
    }
    return worst;
  }
};

}  // namespace tessera
