#include "server/reply_codec.h"

#include "absl/strings/str_split.h"
#include "backend/core/error.h"
#include "server/build_info.h"
#include "server/status_codec.h"
#include "server/tensor_codec.h"

namespace tessera {
namespace {

void EncodeMemory(const MemoryLedger& memory, v1::MemoryLedger& wire) {
  wire.set_input(memory.input);
  wire.set_output(memory.output);
  wire.set_kv_cache_resident(memory.kv_cache_resident);
  wire.set_workspace_peak(memory.workspace_peak);
  wire.set_staging_peak(memory.staging_peak);
  wire.set_device_peak(memory.device_peak);
  wire.set_host_copies_in(memory.host_copies_in);
  wire.set_host_copies_in_bytes(memory.host_copies_in_bytes);
  wire.set_host_copies_out(memory.host_copies_out);
  wire.set_host_copies_out_bytes(memory.host_copies_out_bytes);
  wire.set_transfers_to_device(memory.transfers_to_device);
  wire.set_transfers_to_device_bytes(memory.transfers_to_device_bytes);
  wire.set_transfers_from_device(memory.transfers_from_device);
  wire.set_transfers_from_device_bytes(memory.transfers_from_device_bytes);
}

void EncodeTraffic(const TrafficLedger& traffic, v1::TrafficLedger& wire) {
  wire.set_hbm_read(traffic.hbm_read);
  wire.set_hbm_write(traffic.hbm_write);
  wire.set_standard_workspace(traffic.standard_workspace);
  wire.set_standard_hbm_bytes(traffic.standard_hbm_bytes);
  wire.set_workspace_ratio(traffic.workspace_ratio);
  wire.set_hbm_ratio(traffic.hbm_ratio);
}

void EncodeChoice(const ChoiceLedger& choice, v1::Choice& wire) {
  wire.set_backend(choice.backend);
  wire.set_device(choice.device);
  wire.set_kernel(choice.kernel);
  wire.set_tile_q(choice.tile_q);
  wire.set_tile_kv(choice.tile_kv);
  wire.set_stages(choice.stages);
  wire.set_num_splits(choice.num_splits);
  wire.set_fast_memory_bytes(choice.fast_memory_bytes);
  wire.set_launches(choice.launches);
  wire.set_batch_requests(choice.batch_requests);
  wire.set_batch_sequences(choice.batch_sequences);
}

void EncodeTime(const TimeLedger& time, v1::TimeLedger& wire) {
  wire.set_queue(time.queue);
  wire.set_transfer_in(time.transfer_in);
  wire.set_compute(time.compute);
  wire.set_transfer_out(time.transfer_out);
  wire.set_total(time.total);
}

void EncodeLedger(const Ledger& ledger, v1::Ledger& wire) {
  EncodeMemory(ledger.memory, *wire.mutable_memory());
  EncodeTraffic(ledger.traffic, *wire.mutable_traffic());
  EncodeChoice(ledger.choice, *wire.mutable_choice());
  EncodeTime(ledger.time, *wire.mutable_time());
  wire.set_flops(ledger.flops);
  wire.set_achieved_flops_per_s(ledger.achieved_flops_per_s);
}

void AddFeatures(uint32_t features, google::protobuf::RepeatedPtrField<std::string>& wire) {
  if (features == 0) return;
  for (const auto name : absl::StrSplit(FeatureNames(features), ", ")) wire.Add(std::string(name));
}

void AddDTypes(uint32_t bits, google::protobuf::RepeatedField<int>& wire) {
  for (int dtype = v1::DATA_TYPE_FP32; dtype <= v1::DATA_TYPE_BOOL; ++dtype) {
    if (bits & DTypeBit(static_cast<DType>(dtype))) wire.Add(dtype);
  }
}

void EncodeBackend(const Backend& backend, v1::BackendDescription& wire) {
  const BackendInfo& info = backend.info();
  wire.set_name(info.name);
  wire.set_description(info.description);
  wire.set_device(backend.device().id());
  wire.set_usable(true);
  AddDTypes(info.capabilities.input_dtypes, *wire.mutable_input_dtypes());
  AddDTypes(info.capabilities.output_dtypes, *wire.mutable_output_dtypes());
  wire.set_max_head_dim(info.capabilities.max_head_dim);
  wire.set_head_dim_multiple(info.capabilities.head_dim_multiple);
  AddFeatures(info.capabilities.features, *wire.mutable_features());
  wire.set_auto_priority(info.auto_priority);
}

void EncodeDevice(const Device& device, v1::DeviceDescription& wire) {
  wire.set_id(device.id());
  const auto info = device.Info();
  if (!info.ok()) {
    wire.set_name("(unknown: " + std::string(info.status().message()) + ")");
    return;
  }
  wire.set_name(info->name);
  wire.set_compute_units(info->compute_units);
  wire.set_total_memory_bytes(info->total_memory_bytes);
  wire.set_free_memory_bytes(info->free_memory_bytes);
  wire.set_fast_memory_bytes(info->fast_memory_bytes);
  wire.set_l2_bytes(info->l2_bytes);
}

// Why Attend would refuse `request` on `backend`: the checks of Pipeline::Prepare.
absl::Status Refusal(const DecodedRequest& request, Backend& backend, const Admission& admission) {
  TESSERA_RETURN_IF_ERROR(backend.Supports(request.problem));
  TESSERA_RETURN_IF_ERROR(admission.CheckInput(request.input_bytes));
  TESSERA_RETURN_IF_ERROR(admission.CheckSize(SizeOf(request.problem), request.output_bytes));
  TESSERA_ASSIGN_OR_RETURN(const Plan plan, backend.MakePlan(request.problem));
  return admission.CheckWorkspace(backend, plan);
}

void AddRefusals(const DecodedRequest& request, const BackendRegistry& registry, const Admission& admission,
                 v1::ExplainResponse& response) {
  const auto add = [&](const std::string& name, const absl::Status& status) {
    v1::ExplainResponse::Refusal& refusal = *response.add_refusals();
    refusal.set_backend(name);
    refusal.set_reason(std::string(status.message()));
  };
  for (Backend* backend : registry.backends()) {
    if (const absl::Status status = Refusal(request, *backend, admission); !status.ok()) {
      add(backend->info().name, status);
    }
  }
  for (const UnavailableBackend& backend : registry.unavailable()) add(backend.name, backend.reason);
}

}  // namespace

void EncodeReply(const std::string& id, const std::vector<OutputSpec>& outputs, const Ledger& ledger,
                 v1::AttendResponse& response) {
  response.set_id(id);
  for (size_t i = 0; i < outputs.size(); ++i) {
    v1::OutputTensor& output = *response.add_outputs();
    output.set_kind(outputs[i].kind);
    output.mutable_tensor()->set_dtype(EncodeDType(outputs[i].dtype));
    output.mutable_tensor()->mutable_shape()->Add(outputs[i].shape.begin(), outputs[i].shape.end());
    output.mutable_tensor()->set_raw_index(static_cast<uint32_t>(i));
  }
  EncodeLedger(ledger, *response.mutable_ledger());
}

v1::AttendResponse EncodeFailure(const std::string& id, const absl::Status& status) {
  v1::AttendResponse response;
  response.set_id(id);
  *response.mutable_status() = ToRpcStatus(status);
  return response;
}

absl::StatusOr<v1::ExplainResponse> EncodeExplain(const DecodedRequest& request, Backend& backend,
                                                  const BackendRegistry& registry,
                                                  const Admission& admission) {
  TESSERA_ASSIGN_OR_RETURN(const Plan plan, backend.MakePlan(request.problem));
  TESSERA_ASSIGN_OR_RETURN(const ModelledTraffic traffic, backend.ModelTraffic(plan, request.problem));
  Ledger ledger;
  ledger.memory.workspace_peak = plan.workspace_bytes;
  AccountProblem(request.problem, traffic, ledger);

  v1::ExplainResponse response;
  EncodeChoice(ChoiceOf(request.problem, plan, backend), *response.mutable_choice());
  EncodeTraffic(ledger.traffic, *response.mutable_traffic());
  response.set_workspace_bytes(plan.workspace_bytes);
  response.set_input_bytes(request.input_bytes);
  response.set_output_bytes(request.output_bytes);
  response.set_flops(ledger.flops);
  AddFeatures(FeaturesOf(request.problem), *response.mutable_features());
  AddRefusals(request, registry, admission, response);
  return response;
}

v1::GetServerInfoResponse EncodeServerInfo(const BackendRegistry& registry, const Limits& limits,
                                           bool draining) {
  v1::GetServerInfoResponse response;
  response.set_version(Version());
  response.set_commit(GitCommit());
  for (const Backend* backend : registry.backends()) EncodeBackend(*backend, *response.add_backends());
  for (const UnavailableBackend& backend : registry.unavailable()) {
    v1::BackendDescription& wire = *response.add_backends();
    wire.set_name(backend.name);
    wire.set_unusable_reason(std::string(backend.reason.message()));
  }
  for (const Device* device : registry.devices()) EncodeDevice(*device, *response.add_devices());
  response.mutable_limits()->set_max_message_bytes(limits.max_message_bytes);
  response.mutable_limits()->set_max_batch_tokens(limits.max_batch_tokens);
  response.mutable_limits()->set_max_workspace_bytes(limits.max_workspace_bytes);
  response.mutable_limits()->set_max_concurrent_requests(limits.max_concurrent_requests);
  response.set_draining(draining);
  return response;
}

}  // namespace tessera
