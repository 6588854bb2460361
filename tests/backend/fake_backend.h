// A Backend for tests that agrees to what its BackendInfo says and computes nothing.
#pragma once

#include <utility>

#include "backend/core/backend.h"

namespace tessera::testing {

// Every feature, every dtype, head dims up to 256: a start for tests to take away from.
inline BackendInfo AbleInfo(std::string name, int auto_priority) {
  BackendInfo info{.name = std::move(name), .description = "a fake", .auto_priority = auto_priority};
  info.capabilities.struct_size = sizeof(Capabilities);
  info.capabilities.features = TESSERA_FEATURE_ALL;
  info.capabilities.input_dtypes = DTypeBit(TESSERA_DTYPE_FP32) | DTypeBit(TESSERA_DTYPE_BF16);
  info.capabilities.output_dtypes = DTypeBit(TESSERA_DTYPE_FP32) | DTypeBit(TESSERA_DTYPE_BF16);
  info.capabilities.max_head_dim = 256;
  info.capabilities.head_dim_multiple = 1;
  return info;
}

class FakeBackend : public Backend {
 public:
  FakeBackend(BackendInfo info, Device& device) : info_(std::move(info)), device_(device) {}

  const BackendInfo& info() const override { return info_; }
  Device& device() const override { return device_; }
  absl::StatusOr<Plan> MakePlan(const AttentionProblem&) const override {
    Plan plan{};
    plan.struct_size = sizeof(plan);
    plan.num_splits = plan.launches = 1;
    return plan;
  }
  absl::Status Enqueue(const Plan&, const AttentionProblem&, void*, tessera_stream*) override {
    return absl::OkStatus();
  }

 private:
  BackendInfo info_;
  Device& device_;
};

}  // namespace tessera::testing
