#include "backend/core/plugin_backend.h"

#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "backend/core/error.h"

namespace tessera {
namespace {

// No machine has more; leaves room to round up and to add.
constexpr int64_t kMaxBytes = int64_t{1} << 56;

absl::Status CheckPlan(const std::string& name, const Plan& plan) {
  const auto invalid = [&](const char* field, const std::string& expected, const std::string& actual) {
    return PluginInvalid("PLUGIN_INVALID_PLAN", name, "plan", field, expected, actual);
  };
  const struct {
    const char* field;
    int64_t value;
    int64_t most;
  } numbers[] = {
      {"workspace_bytes", plan.workspace_bytes, kMaxBytes},
      {"tile_q", plan.tile_q, INT32_MAX},
      {"tile_kv", plan.tile_kv, INT32_MAX},
      {"stages", plan.stages, INT32_MAX},
      {"num_splits", plan.num_splits, INT32_MAX},
      {"fast_memory_bytes", plan.fast_memory_bytes, kMaxBytes},
      {"launches", plan.launches, INT32_MAX},
      {"materialises_scores", plan.materialises_scores, 1},
  };
  for (const auto& number : numbers) {
    if (number.value < 0 || number.value > number.most) {
      return invalid(number.field, absl::StrCat("0..", number.most), absl::StrCat(number.value));
    }
  }
  if (strnlen(plan.kernel, sizeof(plan.kernel)) == sizeof(plan.kernel)) {
    return invalid("kernel", absl::StrCat("at most ", sizeof(plan.kernel) - 1, " characters and a NUL"),
                   absl::StrCat(sizeof(plan.kernel), " bytes without a NUL"));
  }
  return absl::OkStatus();
}

}  // namespace

PluginBackend::PluginBackend(std::shared_ptr<const PluginInstance> instance,
                             const tessera_backend_table& table, BackendInfo info, Device& device)
    : instance_(std::move(instance)), table_(table), info_(std::move(info)), device_(device) {}

absl::Status PluginBackend::Supports(const AttentionProblem& problem) const {
  TESSERA_RETURN_IF_ERROR(Backend::Supports(problem));
  if (table_.supports == nullptr) return absl::OkStatus();
  return CallPlugin(info_.name, "supports", [&](tessera_message* message) {
    return table_.supports(table_.self, &problem, message);
  });
}

absl::StatusOr<Plan> PluginBackend::MakePlan(const AttentionProblem& problem) const {
  Plan plan{};
  plan.struct_size = sizeof(plan);
  TESSERA_RETURN_IF_ERROR(CallPlugin(info_.name, "plan", [&](tessera_message* message) {
    return table_.plan(table_.self, &problem, &plan, message);
  }));
  plan.struct_size = sizeof(plan);  // whatever the plugin wrote there
  TESSERA_RETURN_IF_ERROR(CheckPlan(info_.name, plan));
  const std::string kernel = PluginText(plan.kernel, sizeof(plan.kernel));
  std::memcpy(plan.kernel, kernel.data(), kernel.size());
  return plan;
}

absl::Status PluginBackend::Enqueue(const Plan& plan, const AttentionProblem& problem, void* workspace,
                                    tessera_stream* stream) {
  return CallPlugin(info_.name, "enqueue", [&](tessera_message* message) {
    return table_.enqueue(table_.self, &plan, &problem, workspace, stream, message);
  });
}

absl::StatusOr<ModelledTraffic> PluginBackend::ModelTraffic(const Plan& plan,
                                                            const AttentionProblem& problem) const {
  if (table_.model_traffic == nullptr) return ModelledTraffic{};
  tessera_traffic traffic{};
  traffic.struct_size = sizeof(traffic);
  TESSERA_RETURN_IF_ERROR(CallPlugin(info_.name, "model_traffic", [&](tessera_message* message) {
    return table_.model_traffic(table_.self, &plan, &problem, &traffic, message);
  }));
  for (const auto& [field, bytes] :
       {std::pair("read_bytes", traffic.read_bytes), std::pair("write_bytes", traffic.write_bytes)}) {
    if (bytes < 0) {
      return PluginInvalid("PLUGIN_INVALID_RESULT", info_.name, "model_traffic", field, "0 or more",
                           absl::StrCat(bytes));
    }
  }
  return ModelledTraffic{.read_bytes = traffic.read_bytes, .write_bytes = traffic.write_bytes};
}

}  // namespace tessera
