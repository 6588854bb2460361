#include <cstdlib>
#include <memory>
#include <utility>

#include "absl/strings/str_cat.h"
#include "client/attend_call.h"
#include "client/cli/numbers.h"
#include "client/cli/proto_json.h"
#include "client/cli/random.h"
#include "client/client.h"
#include "client/status_macros.h"
#include "tests/gpu_checks/steps.h"

namespace tessera::gpu_checks {
namespace {

constexpr int64_t kHeads = 4, kHeadDim = 128;
constexpr int64_t kWarmUpLength = 1024;
constexpr double kMiB = 1 << 20;

// One kind of request, sent to one backend.
struct Case {
  std::string name, backend;
  client::DType dtype;
  bool lse;
};

// What one request left behind.
struct Measured {
  v1::Ledger ledger;
  int64_t free_before = 0, free_after = 0;  // of the device
};

client::Tensor RandomTensor(client::Random& random, client::DType dtype, int64_t length) {
  client::Tensor tensor{dtype, {length, kHeads, kHeadDim}, {}};
  std::vector<float> values(static_cast<size_t>(length * kHeads * kHeadDim));
  for (float& value : values) value = random.Normal();
  return client::FromFloats(values, dtype, tensor.shape);
}

absl::StatusOr<v1::Ledger> Send(const client::Client& client, const Case& c, int64_t length) {
  client::Random random(static_cast<uint64_t>(length));
  const client::Tensor q = RandomTensor(random, c.dtype, length);
  client::AttendCall call;
  call.backend = c.backend;
  call.q = call.k = call.v = q.view();
  call.want_lse = c.lse;
  TESSERA_TRY_ASSIGN(const client::AttendResult result, client.Attend(call));
  return result.ledger;
}

absl::StatusOr<int64_t> FreeMemory(const client::Client& client, const std::string& device) {
  TESSERA_TRY_ASSIGN(const v1::GetServerInfoResponse info, client.GetServerInfo());
  for (const v1::DeviceDescription& description : info.devices()) {
    if (description.id() == device) return description.free_memory_bytes();
  }
  return absl::NotFoundError(absl::StrCat("the server has no device ", device));
}

// On a fresh server, so that what it holds afterwards is this request's. A short request before it pays for
// what the first use of a kernel takes.
absl::StatusOr<Measured> Measure(const client::Client& client, const Case& c, int64_t length,
                                 const std::string& device) {
  TESSERA_TRY(Send(client, c, std::min(length, kWarmUpLength)).status());
  Measured measured;
  TESSERA_TRY_ASSIGN(measured.free_before, FreeMemory(client, device));
  TESSERA_TRY_ASSIGN(measured.ledger, Send(client, c, length));
  TESSERA_TRY_ASSIGN(measured.free_after, FreeMemory(client, device));
  return measured;
}

void Judge(const Case& c, const Measured& measured, int64_t length, bool fused, bool on_gpu,
           Findings& findings) {
  const v1::MemoryLedger& memory = measured.ledger.memory();
  const auto workspace = static_cast<double>(memory.workspace_peak());
  const std::string what = absl::StrCat(c.name, ": workspace bytes");
  if (fused) {
    findings.AtMost(what, workspace, c.lse ? kMiB : 0, on_gpu);
  } else {
    // The scores of all heads.
    findings.AtLeast(what, workspace, static_cast<double>(4 * kHeads * length * length), on_gpu);
  }
  // The driver gives memory by 2 MiB; a launch holds a handful of blocks.
  const double tolerance = 16 * kMiB + 0.01 * static_cast<double>(memory.device_peak());
  const auto fell = static_cast<double>(measured.free_before - measured.free_after);
  findings.AtMost(absl::StrCat(c.name, ": free memory fell by ", measured.free_before - measured.free_after,
                               ", the ledger says ", memory.device_peak(), "; difference"),
                  std::abs(fell - static_cast<double>(memory.device_peak())), tolerance, on_gpu);
}

}  // namespace

StepResult CheckMemory(int64_t length, const Environment& environment, std::chrono::seconds timeout) {
  const Case cases[] = {
      {"fused bf16", environment.fused, v1::DATA_TYPE_BF16, false},
      {"fused bf16 with LSE", environment.fused, v1::DATA_TYPE_BF16, true},
      {"fused fp32", environment.fused, v1::DATA_TYPE_FP32, false},
      {"fused fp32 with LSE", environment.fused, v1::DATA_TYPE_FP32, true},
      {"standard fp32", environment.standard, v1::DATA_TYPE_FP32, false},
  };
  StepResult result;
  Findings findings;
  result.data = {{"length", length}, {"heads", kHeads}, {"head_dim", kHeadDim}, {"requests", Json::array()}};
  const auto deadline = std::chrono::steady_clock::now() + timeout;
  for (const Case& c : cases) {
    const bool fused = c.backend == environment.fused;
    const BackendStatus& status = fused ? environment.fused_status : environment.standard_status;
    if (!status.usable) {
      absl::StrAppend(&result.output, c.name, ": skipped, ", c.backend, ": ", status.reason, "\n");
      continue;
    }
    const auto left =
        std::chrono::duration_cast<std::chrono::milliseconds>(deadline - std::chrono::steady_clock::now());
    if (left.count() < 1) {
      result.outcome = Outcome::kFailed;
      result.message = absl::StrCat(c.name, ": no time left of ", timeout.count(), " s");
      return result;
    }
    auto server = StepServer::Start();
    if (!server.ok()) return Failed(std::string(server.status().message()));
    client::ClientOptions options;
    options.call_timeout = left;
    const auto client = client::Client::Connect((*server)->address(), options);
    const auto measured =
        client.ok() ? Measure(**client, c, length, status.device) : absl::StatusOr<Measured>(client.status());
    (*server)->Finish(result);
    if (!measured.ok()) {
      result.outcome = Outcome::kFailed;
      result.message = absl::StrCat(c.name, ": ", measured.status().ToString());
      return result;
    }
    Judge(c, *measured, length, fused, status.on_gpu(), findings);
    result.data["requests"].push_back({{"name", c.name},
                                       {"free_before", measured->free_before},
                                       {"free_after", measured->free_after},
                                       {"ledger", client::ToJson(measured->ledger)}});
  }
  result.data["findings"] = findings.json();
  result.output += findings.text();
  if (!findings.first_failure().empty()) {
    result.outcome = Outcome::kFailed;
    result.message = findings.first_failure();
  } else if (result.outcome == Outcome::kPassed) {
    result.message = absl::StrCat(findings.json().size(), " findings at N = ", length);
  }
  return result;
}

}  // namespace tessera::gpu_checks
