// A Backend for server tests: textbook attention of fp32 or fp8 inputs to fp32, one row at a time, that can
// be held at a gate, made to fail, and asked what it ran. Small problems only.
#pragma once

#include <cmath>
#include <condition_variable>
#include <cstring>
#include <functional>
#include <limits>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "backend/core/backend.h"
#include "tessera/e4m3.hpp"
#include "tests/backend/fake_backend.h"

namespace tessera::testing {

inline float MaskAt(const AttentionProblem& p, const Sequence& s, int64_t h, int64_t i, int64_t j) {
  const int64_t at = h * s.mask_head_stride + i * s.mask_q_stride + j * s.mask_kv_stride;
  constexpr float kHidden = -std::numeric_limits<float>::infinity();
  if (p.mask_kind == TESSERA_MASK_BOOLEAN) return static_cast<const uint8_t*>(s.mask)[at] != 0 ? 0 : kHidden;
  if (p.mask_kind == TESSERA_MASK_ADDITIVE) return static_cast<const float*>(s.mask)[at];
  return 0;
}

// One row of Q, K or V: fp32, or fp8 times its scale.
inline std::vector<float> InputRow(const TensorView& t, int64_t token, int64_t head, int32_t dim,
                                   float scale) {
  const int64_t first = token * t.token_stride + head * t.head_stride;
  std::vector<float> row(static_cast<size_t>(dim));
  for (int32_t d = 0; d < dim; ++d) {
    row[static_cast<size_t>(d)] = t.dtype == TESSERA_DTYPE_FP8_E4M3
                                      ? scale * E4M3ToFloat(static_cast<const uint8_t*>(t.data)[first + d])
                                      : static_cast<const float*>(t.data)[first + d];
  }
  return row;
}

inline void ReferenceRow(const AttentionProblem& p, int64_t n, int64_t h, int64_t i) {
  const Sequence& s = p.sequences[n];
  const int64_t g = h / (p.num_q_heads / p.num_kv_heads);
  const auto q = InputRow(p.q, s.q_begin + i, h, p.head_dim_qk, ScaleOf(p.q_scales, n, h));
  float* o = static_cast<float*>(p.o.data) + (s.q_begin + i) * p.o.token_stride + h * p.o.head_stride;
  std::vector<double> sum(static_cast<size_t>(p.head_dim_v), 0.0);
  double total = p.sinks != nullptr ? std::exp(static_cast<double>(p.sinks[h])) : 0.0;
  for (int64_t j = 0; j < s.kv_len; ++j) {
    const int64_t diagonal = i + s.diagonal_offset;
    if (s.window_left >= 0 && j < diagonal - s.window_left) continue;
    if (s.window_right >= 0 && j > diagonal + s.window_right) continue;
    const auto k = InputRow(p.k, s.kv_begin + j, g, p.head_dim_qk, ScaleOf(p.k_scales, n, g));
    double x = 0;
    for (int d = 0; d < p.head_dim_qk; ++d) {
      x += static_cast<double>(q[static_cast<size_t>(d)]) * k[static_cast<size_t>(d)];
    }
    x *= p.scale;
    if (p.softcap > 0) x = p.softcap * std::tanh(x / p.softcap);
    if (p.alibi_slopes != nullptr) x -= p.alibi_slopes[h] * std::abs(static_cast<double>(diagonal - j));
    x += MaskAt(p, s, h, i, j);
    const double weight = std::exp(x);
    if (weight == 0) continue;
    total += weight;
    const auto v = InputRow(p.v, s.kv_begin + j, g, p.head_dim_v, ScaleOf(p.v_scales, n, g));
    for (size_t d = 0; d < v.size(); ++d) sum[d] += weight * v[d];
  }
  for (int d = 0; d < p.head_dim_v; ++d) {
    o[d] = total > 0 ? static_cast<float>(sum[static_cast<size_t>(d)] / total) : 0;
  }
  if (p.lse.data != nullptr) {
    p.lse.data[(s.q_begin + i) * p.lse.token_stride + h * p.lse.head_stride] =
        static_cast<float>(std::log(total));
  }
}

inline void ReferenceAttention(const AttentionProblem& p) {
  for (int64_t s = 0; s < p.num_sequences; ++s) {
    for (int64_t h = 0; h < p.num_q_heads; ++h) {
      for (int64_t i = 0; i < p.sequences[s].q_len; ++i) ReferenceRow(p, s, h, i);
    }
  }
}

// What a test can see and steer, alive as long as the test; thread-safe.
class BackendControl {
 public:
  // Launches wait at the gate from now on, until it opens.
  void CloseGate() {
    Set([this] { open_ = false; });
  }
  void OpenGate() {
    Set([this] { open_ = true; });
  }
  // Waits until a launch stands at the gate.
  void AwaitLaunchAtGate() {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [this] { return at_gate_ > 0; });
  }
  // Called at every launch, past the gate; its status is the launch's.
  void OnLaunch(std::function<absl::Status(const AttentionProblem&)> hook) {
    Set([&] { hook_ = std::move(hook); });
  }
  void SetWorkspaceBytes(int64_t bytes) {
    Set([&] { workspace_bytes_ = bytes; });
  }
  // Problems of more sequences are refused from now on.
  void SetMaxSequences(int64_t most) {
    Set([&] { max_sequences_ = most; });
  }
  int64_t max_sequences() const {
    std::lock_guard lock(mutex_);
    return max_sequences_;
  }
  int64_t workspace_bytes() const {
    std::lock_guard lock(mutex_);
    return workspace_bytes_;
  }
  // Sequences of each launch so far.
  std::vector<int64_t> launches() const {
    std::lock_guard lock(mutex_);
    return launches_;
  }

  absl::Status Pass(const AttentionProblem& problem) {
    std::unique_lock lock(mutex_);
    ++at_gate_;
    changed_.notify_all();
    changed_.wait(lock, [this] { return open_; });
    --at_gate_;
    launches_.push_back(problem.num_sequences);
    return hook_ ? hook_(problem) : absl::OkStatus();
  }

 private:
  template <typename Change>
  void Set(Change change) {
    std::lock_guard lock(mutex_);
    change();
    changed_.notify_all();
  }

  mutable std::mutex mutex_;
  std::condition_variable changed_;
  bool open_ = true;
  int at_gate_ = 0;
  int64_t workspace_bytes_ = 256;
  int64_t max_sequences_ = INT64_MAX;
  std::vector<int64_t> launches_;
  std::function<absl::Status(const AttentionProblem&)> hook_;
};

class ReferenceBackend : public Backend {
 public:
  ReferenceBackend(std::string name, int auto_priority, Device& device, BackendControl& control)
      : info_(AbleInfo(std::move(name), auto_priority)), device_(device), control_(control) {
    info_.capabilities.output_dtypes = DTypeBit(TESSERA_DTYPE_FP32);
    info_.capabilities.input_dtypes = DTypeBit(TESSERA_DTYPE_FP32) | DTypeBit(TESSERA_DTYPE_FP8_E4M3);
  }

  const BackendInfo& info() const override { return info_; }
  Device& device() const override { return device_; }

  absl::Status Supports(const AttentionProblem& problem) const override {
    if (problem.num_sequences > control_.max_sequences())
      return absl::UnimplementedError("too many sequences");
    return Backend::Supports(problem);
  }

  absl::StatusOr<Plan> MakePlan(const AttentionProblem&) const override {
    Plan plan{};
    plan.struct_size = sizeof(plan);
    plan.num_splits = plan.launches = 1;
    plan.workspace_bytes = control_.workspace_bytes();
    std::strcpy(plan.kernel, "reference_row");
    return plan;
  }

  absl::Status Enqueue(const Plan& plan, const AttentionProblem& problem, void* workspace,
                       tessera_stream*) override {
    std::memset(workspace, 0xCD, static_cast<size_t>(plan.workspace_bytes));
    if (const absl::Status status = control_.Pass(problem); !status.ok()) return status;
    ReferenceAttention(problem);
    return absl::OkStatus();
  }

  // Tells problems and plans apart.
  absl::StatusOr<ModelledTraffic> ModelTraffic(const Plan& plan,
                                               const AttentionProblem& problem) const override {
    return ModelledTraffic{.read_bytes = SizeOf(problem).kv_tokens, .write_bytes = plan.workspace_bytes};
  }

 private:
  BackendInfo info_;
  Device& device_;
  BackendControl& control_;
};

}  // namespace tessera::testing
