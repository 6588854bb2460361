#include "server/shadow_replay.h"

#include <algorithm>
#include <cmath>
#include <future>
#include <limits>
#include <utility>
#include <vector>

#include "backend/core/error.h"
#include "tessera/backend.hpp"

namespace tessera {
namespace {

// About a tenth of a second a slice, and a few seconds a request, of one processor or of a share of a GPU.
constexpr ShadowBudget kHostBudget{.slice_flops = 100'000'000, .request_flops = 2'000'000'000};
constexpr ShadowBudget kDeviceBudget{.slice_flops = 20'000'000'000, .request_flops = 200'000'000'000};

// Full precision where the backend has it: it is rounded once, to what was served.
DType OutputDType(const Backend& backend, DType requested) {
  const bool has_fp32 = (backend.info().capabilities.output_dtypes & DTypeBit(TESSERA_DTYPE_FP32)) != 0;
  return has_fp32 ? TESSERA_DTYPE_FP32 : requested;
}

// What a dtype can tell apart: its largest number, and the distance of its smallest ones.
struct Range {
  float largest, step;
};
Range RangeOf(DType dtype) {
  if (dtype == TESSERA_DTYPE_FP16) return {.largest = 65504, .step = 0x1p-24f};
  if (dtype == TESSERA_DTYPE_BF16) return {.largest = 0x1.fep127f, .step = 0x1p-133f};
  return {.largest = std::numeric_limits<float>::max(), .step = std::numeric_limits<float>::denorm_min()};
}

// Sums of squares of a difference and of what it is relative to.
class ErrorSum {
 public:
  // Of values rounded to `dtype`.
  explicit ErrorSum(DType dtype) : range_(RangeOf(dtype)) {}

  void Add(float actual, float reference) {
    if (std::isnan(actual) != std::isnan(reference)) difference_ = std::numeric_limits<double>::infinity();
    if (std::isnan(actual) || std::isnan(reference)) return;
    if (actual == reference && std::isinf(actual)) return;
    // At the end of the range rounding decides what becomes infinite, near zero what becomes nothing.
    const double clamped = std::clamp(reference, -range_.largest, range_.largest);
    const double difference = std::clamp(actual, -range_.largest, range_.largest) - clamped;
    reference_ += clamped * clamped;
    if (std::abs(difference) > range_.step) difference_ += difference * difference;
  }
  double relative() const {
    if (difference_ == 0) return 0;
    return reference_ > 0 ? std::sqrt(difference_ / reference_) : std::numeric_limits<double>::infinity();
  }

 private:
  const Range range_;
  double difference_ = 0, reference_ = 0;
};

void Compare(const AttentionProblem& served, const std::byte* output, const ShadowSlice& slice,
             const AttentionProblem& replayed, const std::byte* reference, ErrorSum& sum) {
  std::vector<float> actual(static_cast<size_t>(served.head_dim_v)), expected(actual.size());
  std::vector<float> rounded(actual.size());  // room for the expected row, in the served dtype
  const int64_t first = served.sequences[slice.sequence].q_begin + slice.first_row;
  for (int64_t i = 0; i < slice.num_rows; ++i) {
    for (int64_t h = 0; h < served.num_q_heads; ++h) {
      plugin::Load(output, served.o.dtype, (first + i) * served.o.token_stride + h * served.o.head_stride,
                   served.head_dim_v, actual.data());
      plugin::Load(reference, replayed.o.dtype, i * replayed.o.token_stride + h * replayed.o.head_stride,
                   served.head_dim_v, expected.data());
      plugin::Store(expected.data(), served.head_dim_v, rounded.data(), served.o.dtype, 0);
      plugin::Load(rounded.data(), served.o.dtype, 0, served.head_dim_v, expected.data());
      for (size_t d = 0; d < actual.size(); ++d) sum.Add(actual[d], expected[d]);
    }
  }
}

}  // namespace

ShadowReplay::ShadowReplay(Backend& backend, int64_t max_workspace_bytes)
    : backend_(backend), max_workspace_bytes_(max_workspace_bytes) {}

absl::StatusOr<std::unique_ptr<ShadowReplay>> ShadowReplay::Create(Backend& backend,
                                                                   int64_t max_workspace_bytes) {
  std::unique_ptr<ShadowReplay> replay(new ShadowReplay(backend, max_workspace_bytes));
  TESSERA_ASSIGN_OR_RETURN(replay->executor_,
                           Executor::Create(backend.device(), max_workspace_bytes, /*copiers=*/1, *replay));
  return replay;
}

absl::StatusOr<double> ShadowReplay::RelativeError(const DecodedRequest& request, const std::byte* output,
                                                   uint64_t seed, const std::atomic<bool>& stop) {
  const ShadowBudget& budget = backend_.device().host_accessible() ? kHostBudget : kDeviceBudget;
  const std::vector<ShadowSlice> slices = ChooseSlices(request.problem, budget, seed);
  const bool has_rows = SizeOf(request.problem).q_tokens > 0;
  if (slices.empty() && has_rows) return absl::OutOfRangeError("each row is too costly to replay");
  ErrorSum sum(request.problem.o.dtype);
  for (const ShadowSlice& slice : slices) {
    if (stop) return absl::CancelledError("the server drains");
    DecodedRequest part = RequestOf(request, slice, OutputDType(backend_, request.problem.o.dtype));
    const AttentionProblem replayed = part.problem;
    TESSERA_ASSIGN_OR_RETURN(const OutputBytes reference, Run(std::move(part)));
    Compare(request.problem, output, slice, replayed, reference.data(), sum);
  }
  return sum.relative();
}

absl::StatusOr<OutputBytes> ShadowReplay::Run(DecodedRequest slice) {
  auto job = std::make_unique<Job>();
  job->request = std::move(slice);
  const AttentionProblem& problem = job->request.problem;
  TESSERA_RETURN_IF_ERROR(Validate(problem, DataRequirement::kShapesOnly));
  TESSERA_RETURN_IF_ERROR(backend_.Supports(problem));
  TESSERA_ASSIGN_OR_RETURN(job->plan, backend_.MakePlan(problem));
  if (job->plan.workspace_bytes > max_workspace_bytes_) {
    return absl::OutOfRangeError("a slice takes more workspace than replays may");
  }
  job->backend = &backend_;
  job->size = SizeOf(problem);
  job->alone = true;
  job->queued_at = Clock::now();
  std::promise<absl::StatusOr<OutputBytes>> ended;
  auto result = ended.get_future();
  job->done = [&ended](std::unique_ptr<Job> done, const absl::Status& status) {
    if (!status.ok()) return ended.set_value(status);
    ended.set_value(std::move(done->outputs.front()));
  };
  Jobs jobs;
  jobs.push_back(std::move(job));
  executor_->AwaitRoom();
  executor_->Run(std::move(jobs));
  return result.get();
}

// Nothing runs beside a slice that could have made it fail.
void ShadowReplay::RunAlone(Jobs jobs) {
  for (auto& job : jobs) Complete(std::move(job), absl::InternalError("the replay failed"));
}

}  // namespace tessera
