// Adapts the backend table of a loaded plugin to Backend, and trusts nothing that comes back through it.
#pragma once

#include <memory>
#include <string>

#include "backend/core/backend.h"
#include "backend/core/plugin_instance.h"

namespace tessera {

class PluginBackend : public Backend {
 public:
  // `table` is complete (LoadPlugin has checked it), as is `info`. `device` outlives the backend.
  PluginBackend(std::shared_ptr<const PluginInstance> instance, const tessera_backend_table& table,
                BackendInfo info, Device& device);

  const BackendInfo& info() const override { return info_; }
  Device& device() const override { return device_; }

  absl::Status Supports(const AttentionProblem& problem) const override;
  // INTERNAL with reason PLUGIN_INVALID_PLAN for a plan that no backend can mean: negative sizes, a kernel
  // name without its NUL.
  absl::StatusOr<Plan> MakePlan(const AttentionProblem& problem) const override;
  absl::Status Enqueue(const Plan& plan, const AttentionProblem& problem, void* workspace,
                       tessera_stream* stream) override;
  // Not known where the plugin has no model. INTERNAL with reason PLUGIN_INVALID_RESULT for negative bytes.
  absl::StatusOr<ModelledTraffic> ModelTraffic(const Plan& plan,
                                               const AttentionProblem& problem) const override;

 private:
  std::shared_ptr<const PluginInstance> instance_;
  tessera_backend_table table_;
  BackendInfo info_;
  Device& device_;
};

}  // namespace tessera
