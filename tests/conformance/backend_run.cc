#include "tests/conformance/backend_run.h"

#include <algorithm>
#include <cstring>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "backend/core/dtype.h"
#include "backend/core/error.h"
#include "tests/conformance/case_grid.h"
#include "tests/conformance/guarded_buffer.h"
#include "tests/conformance/problem_builder.h"

namespace tessera::testing {
namespace {

using Bytes = std::vector<std::byte>;

Bytes BytesOf(const TensorView& tensor) {
  const auto* begin = static_cast<const std::byte*>(tensor.data);
  return Bytes(begin, begin + tensor.num_elements * DTypeSize(tensor.dtype));
}

// One tensor of the problem on the device, and what it held before the run.
struct DeviceTensor {
  const char* name;
  Bytes before;
  GuardedBuffer memory;
};

// A host problem carried over to the device's memory.
class DeviceProblem {
 public:
  static absl::StatusOr<DeviceProblem> Create(HostProblem& host, Device& device, const ProblemSpec& spec) {
    DeviceProblem result;
    result.sequences_.assign(host.problem().sequences,
                             host.problem().sequences + host.problem().num_sequences);
    result.problem_ = host.problem();
    AttentionProblem& p = result.problem_;
    p.sequences = result.sequences_.data();
    // Rows of the gapped layout are not aligned; nor is its first.
    const bool shift = spec.layout == Layout::kGapped;
    for (const auto& [name, tensor] : {std::pair{"q", &p.q}, {"k", &p.k}, {"v", &p.v}, {"o", &p.o}}) {
      const auto offset = static_cast<size_t>(shift ? DTypeSize(tensor->dtype) : 0);
      TESSERA_ASSIGN_OR_RETURN(tensor->data, result.Place(name, BytesOf(*tensor), device, offset));
    }
    if (p.lse.data != nullptr) {
      TESSERA_ASSIGN_OR_RETURN(void* lse,
                               result.Place("lse", host.lse_memory(), device, shift ? sizeof(float) : 0));
      p.lse.data = static_cast<float*>(lse);
    }
    if (p.mask_kind != TESSERA_MASK_NONE) {
      TESSERA_ASSIGN_OR_RETURN(void* mask, result.Place("mask", host.mask_memory(), device, 0));
      for (Sequence& s : result.sequences_) {
        const auto offset = static_cast<const std::byte*>(s.mask) - host.mask_memory().data();
        s.mask = static_cast<const std::byte*>(mask) + offset;
      }
    }
    return result;
  }

  const AttentionProblem& problem() const { return problem_; }

  // The same problem without memory, as a dry run has it.
  AttentionProblem WithoutData(std::vector<Sequence>& sequences) const {
    AttentionProblem p = problem_;
    sequences = sequences_;
    for (Sequence& s : sequences) s.mask = nullptr;
    p.sequences = sequences.data();
    p.q.data = p.k.data = p.v.data = p.o.data = nullptr;
    return p;  // lse.data says whether it is wanted, and is not read through
  }

  // Everything as before the first run.
  absl::Status Upload(tessera_stream* stream) {
    for (DeviceTensor& tensor : tensors_)
      TESSERA_RETURN_IF_ERROR(tensor.memory.Upload(tensor.before, stream));
    return absl::OkStatus();
  }

  // As before the first run, but for Q, K and V, whose bytes all hold `value`.
  absl::Status UploadSpoilt(std::byte value, tessera_stream* stream) {
    for (DeviceTensor& tensor : tensors_) {
      const std::string_view name = tensor.name;
      const bool spoil = name == "q" || name == "k" || name == "v";
      const Bytes spoilt(spoil ? tensor.before.size() : 0, value);
      TESSERA_RETURN_IF_ERROR(tensor.memory.Upload(spoil ? spoilt : tensor.before, stream));
    }
    return absl::OkStatus();
  }

  // o and lse after a run. INTERNAL when it touched an input or a guard.
  struct Results {
    Bytes o, lse;
    friend bool operator==(const Results&, const Results&) = default;
  };
  absl::StatusOr<Results> Download(tessera_stream* stream) {
    Results results;
    for (DeviceTensor& tensor : tensors_) {
      auto after = tensor.memory.Download(stream);
      if (!after.ok()) return Prefixed(tensor.name, after.status());
      if (tensor.name == std::string("o")) {
        results.o = *std::move(after);
      } else if (tensor.name == std::string("lse")) {
        results.lse = *std::move(after);
      } else if (*after != tensor.before) {
        return absl::InternalError(absl::StrCat("the run changed its input ", tensor.name));
      }
    }
    return results;
  }

 private:
  absl::StatusOr<void*> Place(const char* name, Bytes bytes, Device& device, size_t offset) {
    TESSERA_ASSIGN_OR_RETURN(GuardedBuffer memory, GuardedBuffer::Create(device, bytes.size(), offset));
    void* data = memory.data();
    tensors_.push_back({name, std::move(bytes), std::move(memory)});
    return data;
  }

  AttentionProblem problem_{};
  std::vector<Sequence> sequences_;
  std::vector<DeviceTensor> tensors_;
};

absl::StatusOr<Plan> MakeConsistentPlan(Backend& backend, const DeviceProblem& device_problem) {
  std::vector<Sequence> sequences;
  const AttentionProblem shapes = device_problem.WithoutData(sequences);
  TESSERA_RETURN_IF_ERROR(Validate(shapes, DataRequirement::kShapesOnly));
  TESSERA_ASSIGN_OR_RETURN(const Plan dry, backend.MakePlan(shapes));
  TESSERA_ASSIGN_OR_RETURN(const Plan plan, backend.MakePlan(device_problem.problem()));
  const auto same = [&](auto member) { return dry.*member == plan.*member; };
  if (!same(&Plan::workspace_bytes) || !same(&Plan::tile_q) || !same(&Plan::tile_kv) ||
      !same(&Plan::num_splits) || !same(&Plan::launches) ||
      std::strncmp(dry.kernel, plan.kernel, sizeof(plan.kernel)) != 0) {
    return absl::InternalError("the plans with and without data differ");
  }
  if (plan.workspace_bytes < 0 || plan.launches < 1 || plan.kernel[0] == '\0') {
    return absl::InternalError(absl::StrCat("the plan is not filled: workspace_bytes ", plan.workspace_bytes,
                                            ", launches ", plan.launches, ", kernel '", plan.kernel, "'"));
  }
  TESSERA_ASSIGN_OR_RETURN(const ModelledTraffic of_dry, backend.ModelTraffic(dry, shapes));
  TESSERA_ASSIGN_OR_RETURN(const ModelledTraffic traffic,
                           backend.ModelTraffic(plan, device_problem.problem()));
  if (of_dry.read_bytes != traffic.read_bytes || of_dry.write_bytes != traffic.write_bytes) {
    return absl::InternalError("the modelled traffic with and without data differs");
  }
  if (traffic.read_bytes < 0 || traffic.write_bytes < 0) {
    return absl::InternalError(absl::StrCat("the modelled traffic is negative: read ", traffic.read_bytes,
                                            ", write ", traffic.write_bytes));
  }
  return plan;
}

// One launch on what has been uploaded, with a workspace that holds `garbage`.
absl::Status Launch(Backend& backend, const DeviceProblem& device_problem, const Plan& plan,
                    std::byte garbage, tessera_stream* stream) {
  Device& device = backend.device();
  const auto workspace_bytes = static_cast<size_t>(plan.workspace_bytes);
  TESSERA_ASSIGN_OR_RETURN(GuardedBuffer workspace, GuardedBuffer::Create(device, workspace_bytes, 0));
  TESSERA_RETURN_IF_ERROR(workspace.Upload(Bytes(workspace_bytes, garbage), stream));

  TESSERA_ASSIGN_OR_RETURN(const Event done, Event::Create(device));
  TESSERA_RETURN_IF_ERROR(backend.Enqueue(plan, device_problem.problem(), workspace.data(), stream));
  TESSERA_RETURN_IF_ERROR(device.RecordEvent(done.get(), stream));
  TESSERA_RETURN_IF_ERROR(device.SynchronizeEvent(done.get()));

  const auto scratch = workspace.Download(stream);
  return scratch.ok() ? absl::OkStatus() : Prefixed("workspace", scratch.status());
}

// The garbage in the workspaces of run 0, 1, ..., and of the spoilt runs between them. In tensors: NaN, and
// numbers that are huge in bf16 and fp16.
constexpr std::byte kGarbage[] = {std::byte{0xff}, std::byte{0x3e}};
constexpr std::byte kSpoilt[] = {kPoison, std::byte{0x7b}};

absl::StatusOr<DeviceProblem::Results> Run(Backend& backend, DeviceProblem& device_problem, const Plan& plan,
                                           int run, tessera_stream* stream) {
  if (run >= 2) {
    TESSERA_RETURN_IF_ERROR(device_problem.UploadSpoilt(kSpoilt[run % 2], stream));
    TESSERA_RETURN_IF_ERROR(Launch(backend, device_problem, plan, kGarbage[run % 2], stream));
  }
  TESSERA_RETURN_IF_ERROR(device_problem.Upload(stream));
  TESSERA_RETURN_IF_ERROR(Launch(backend, device_problem, plan, kGarbage[run % 2], stream));
  return device_problem.Download(stream);
}

// Whether bytes of `memory` outside the rows of the sequences have lost their poison.
bool WroteElsewhere(const AttentionProblem& p, const Bytes& memory, int64_t token_stride, int64_t head_stride,
                    int64_t row_elements, int64_t element_bytes) {
  Bytes rest = memory;
  for (int64_t n = 0; n < p.num_sequences; ++n) {
    for (int64_t i = 0; i < p.sequences[n].q_len; ++i) {
      for (int32_t h = 0; h < p.num_q_heads; ++h) {
        const int64_t row = (p.sequences[n].q_begin + i) * token_stride + h * head_stride;
        std::fill_n(rest.begin() + row * element_bytes, row_elements * element_bytes, kPoison);
      }
    }
  }
  return std::any_of(rest.begin(), rest.end(), [](std::byte b) { return b != kPoison; });
}

CaseResult Failed(std::string message) {
  return {.verdict = Verdict::kFailed, .message = std::move(message)};
}
CaseResult Failed(const std::string& step, const absl::Status& status) {
  return Failed(absl::StrCat(step, ": ", status.ToString()));
}

// Which rows of o differ between run 0 and `run`.
std::string DescribeDifference(const AttentionProblem& p, const DeviceProblem::Results& first,
                               const DeviceProblem::Results& again, int run) {
  const int64_t element = DTypeSize(p.o.dtype), row_bytes = p.head_dim_v * element;
  int64_t row = 0, differing = 0, first_differing = -1;
  for (int64_t n = 0; n < p.num_sequences; ++n) {
    for (int64_t i = 0; i < p.sequences[n].q_len; ++i) {
      for (int32_t h = 0; h < p.num_q_heads; ++h, ++row) {
        const int64_t at = ((p.sequences[n].q_begin + i) * p.o.token_stride + h * p.o.head_stride) * element;
        if (std::equal(first.o.begin() + at, first.o.begin() + at + row_bytes, again.o.begin() + at))
          continue;
        if (differing++ == 0) first_differing = row;
      }
    }
  }
  const std::string what = absl::StrCat("runs 0 and ", run, " of the same problem differ in ", differing,
                                        " of ", row, " rows of o");
  return first_differing < 0 ? absl::StrCat(what, ", and in lse")
                             : absl::StrCat(what, ", first in ", DescribeRow(p, first_differing));
}

// Holds what the device computed to the reference.
CaseResult Judge(const ProblemSpec& spec, HostProblem& host, DeviceProblem::Results results) {
  const AttentionProblem& p = host.problem();
  if (WroteElsewhere(p, results.o, p.o.token_stride, p.o.head_stride, p.head_dim_v, DTypeSize(p.o.dtype))) {
    return Failed("o: the run wrote to rows of no sequence");
  }
  if (p.lse.data != nullptr &&
      WroteElsewhere(p, results.lse, p.lse.token_stride, p.lse.head_stride, 1, sizeof(float))) {
    return Failed("lse: the run wrote to rows of no sequence");
  }
  std::copy(results.o.begin(), results.o.end(), host.o_memory().begin());
  std::copy(results.lse.begin(), results.lse.end(), host.lse_memory().begin());

  const ReferenceResult reference = ComputeReference(p);
  ErrorBounds bounds = BoundsFor(p.q.dtype, p.o.dtype, static_cast<int64_t>(reference.o.size()));
  if (!IsUnitNormal(spec)) bounds = WidenToFp32(p, reference, bounds);
  CaseResult result;
  result.error = CompareOutputs(p, reference, ReadOutputs(p), bounds);
  if (!result.error.failure.empty()) {
    result.verdict = Verdict::kFailed;
    result.message = result.error.failure;
  }
  return result;
}

}  // namespace

CaseResult RunCase(Backend& backend, const ProblemSpec& spec, uint64_t seed) {
  HostProblem host = BuildProblem(spec, seed);
  auto device_problem = DeviceProblem::Create(host, backend.device(), spec);
  if (!device_problem.ok()) return Failed("memory", device_problem.status());
  const AttentionProblem& p = device_problem->problem();

  if (const absl::Status status = Validate(p); !status.ok()) return Failed("Validate", status);
  if (const absl::Status declared = CheckCapabilities(backend.info(), p); !declared.ok()) {
    return {.verdict = Verdict::kSkipped, .message = std::string(declared.message())};
  }
  if (const absl::Status status = backend.Supports(p); !status.ok()) {
    return Failed("refused, though its capabilities claim it", status);
  }
  const auto plan = MakeConsistentPlan(backend, *device_problem);
  if (!plan.ok()) return Failed("MakePlan", plan.status());

  auto stream = Stream::Create(backend.device());
  if (!stream.ok()) return Failed("CreateStream", stream.status());
  auto first = Run(backend, *device_problem, *plan, 0, stream->get());
  if (!first.ok()) return Failed("first run", first.status());
  for (int run = 1; run < spec.runs; ++run) {
    const auto again = Run(backend, *device_problem, *plan, run, stream->get());
    if (!again.ok()) return Failed(absl::StrCat("run ", run), again.status());
    if (*first != *again) return Failed(DescribeDifference(host.problem(), *first, *again, run));
  }
  CaseResult result = Judge(spec, host, *std::move(first));
  result.kernel = plan->kernel;
  return result;
}

}  // namespace tessera::testing
