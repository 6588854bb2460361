#include "client/cli/compare_bench.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "client/cli/numbers.h"
#include "client/error.h"
#include "client/fp8.h"
#include "client/status_macros.h"

namespace tessera::client {
namespace {

constexpr int64_t kSampledRows = 64;

ScaledTensor DrawTensor(Random& random, const CompareSettings& settings, int64_t n) {
  std::vector<float> values(static_cast<size_t>(n * settings.heads * settings.head_dim));
  for (float& value : values) value = random.Normal();
  const std::vector<int64_t> shape{n, settings.heads, settings.head_dim};
  if (settings.dtype != v1::DATA_TYPE_FP8_E4M3) return {FromFloats(values, settings.dtype, shape), {}};
  return *QuantizeFp8(FromFloats(values, v1::DATA_TYPE_FP32, shape), v1::LAYOUT_PACKED);
}

std::vector<int64_t> DrawRows(Random& random, int64_t n) {
  std::set<int64_t> rows{0, n - 1};
  while (static_cast<int64_t>(rows.size()) < std::min(n, kSampledRows)) rows.insert(random.Below(n));
  return {rows.begin(), rows.end()};
}

// The given tokens of a (tokens, heads, dim) tensor.
Tensor TakeRows(const Tensor& tensor, const std::vector<int64_t>& rows) {
  const size_t stride = tensor.bytes.size() / static_cast<size_t>(tensor.shape[0]);
  Tensor taken{tensor.dtype, tensor.shape, {}};
  taken.shape[0] = static_cast<int64_t>(rows.size());
  for (int64_t row : rows) taken.bytes.append(tensor.bytes, static_cast<size_t>(row) * stride, stride);
  return taken;
}

void Record(const v1::Ledger& ledger, Measurement& measurement) {
  measurement.backend = ledger.choice().backend();
  measurement.kernel = ledger.choice().kernel();
  measurement.flops = ledger.flops();
  measurement.workspace_peak =
      std::max<int64_t>(measurement.workspace_peak, ledger.memory().workspace_peak());
}

}  // namespace

std::string DefaultStandard(const std::string& fused, const v1::GetServerInfoResponse& info) {
  const v1::BackendDescription* tested = nullptr;
  std::map<std::string, const v1::BackendDescription*> usable;
  for (const v1::BackendDescription& backend : info.backends()) {
    if (!backend.usable()) continue;
    usable[backend.name()] = &backend;
    const bool first_choice = tested == nullptr || backend.auto_priority() > tested->auto_priority();
    if (fused == "auto" ? first_choice : backend.name() == fused) tested = &backend;
  }
  const auto cuda = usable.find("cuda_standard");
  if (cuda != usable.end() && tested != nullptr && tested->device() == cuda->second->device()) {
    return "cuda_standard";
  }
  return usable.count("cpu_unfused") > 0 ? "cpu_unfused" : "cpu_standard";
}

double Median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  const size_t middle = values.size() / 2;
  return values.size() % 2 == 1 ? values[middle] : (values[middle - 1] + values[middle]) / 2;
}

double Spread(const std::vector<double>& values) {
  const auto [low, high] = std::minmax_element(values.begin(), values.end());
  const double median = Median(values);
  return median > 0 ? (*high - *low) / 2 / median : 0;
}

std::optional<double> CompareRow::SpeedUp() const {
  std::vector<double> ratios;
  for (size_t i = 0; i < std::min(standard.compute_us.size(), fused.compute_us.size()); ++i) {
    if (fused.compute_us[i] > 0) ratios.push_back(standard.compute_us[i] / fused.compute_us[i]);
  }
  if (ratios.empty()) return std::nullopt;
  return Median(std::move(ratios));
}

struct CompareBench::Inputs {
  ScaledTensor q, k, v;

  AttendCall Call(const CompareSettings& settings) const {
    AttendCall call;
    call.q = q.tensor.view();
    call.k = k.tensor.view();
    call.v = v.tensor.view();
    call.q_scales = q.scales;
    call.k_scales = k.scales;
    call.v_scales = v.scales;
    call.options.set_causal(settings.causal);
    return call;
  }
};

CompareBench::CompareBench(const CompareSettings& settings, uint64_t seed, const Client& client)
    : settings_(settings), client_(client), random_(seed) {}

// The whole of it would take the oracle hours at large N; a row's result depends on that row of q alone.
// Causality becomes a mask here, so that the check shares no code with what it checks.
absl::StatusOr<AttendResult> CompareBench::OracleRows(const Inputs& inputs,
                                                      const std::vector<int64_t>& rows) const {
  const int64_t n = inputs.k.tensor.shape[0];
  const Tensor q = TakeRows(inputs.q.tensor, rows);
  AttendCall call = inputs.Call(settings_);
  call.backend = settings_.oracle;
  call.q = q.view();
  call.q_lens = {static_cast<int64_t>(rows.size())};
  call.kv_lens = {n};
  call.output_dtype = v1::DATA_TYPE_FP32;
  Tensor mask{v1::DATA_TYPE_BOOL, {1, static_cast<int64_t>(rows.size()), n}, {}};
  if (settings_.causal) {
    for (int64_t row : rows) {
      mask.bytes.append(static_cast<size_t>(row + 1), '\1').append(static_cast<size_t>(n - row - 1), '\0');
    }
    call.options.set_causal(false);
    call.masks = {mask.view()};
  }
  return client_.Attend(call);
}

absl::StatusOr<std::optional<AttendResult>> CompareBench::WarmUp(const v1::AttendRequest& request,
                                                                 Measurement& measurement) const {
  absl::StatusOr<AttendResult> result = client_.Attend(request);
  if (absl::IsResourceExhausted(result.status())) {
    measurement.skipped = absl::StrCat("refused: ", std::string(result.status().message()));
    return std::optional<AttendResult>();
  }
  if (!result.ok()) return result.status();
  Record(result->ledger, measurement);
  return std::optional<AttendResult>(*std::move(result));
}

bool CompareBench::TooSlowToTry(int64_t n, Measurement& measurement) const {
  if (last_n_ == 0) return false;
  const double growth = static_cast<double>(n) / static_cast<double>(last_n_);
  const double seconds = last_standard_us_ * growth * growth / 1e6;
  if (seconds <= settings_.max_standard_seconds) return false;
  measurement.skipped =
      absl::StrFormat("skipped: one call would take about %.0f s, --max-standard-seconds=%g", seconds,
                      settings_.max_standard_seconds);
  return true;
}

int64_t CompareBench::AffordableRounds(double warm_up_us, Measurement& measurement) const {
  const double affordable = settings_.max_standard_seconds * 1e6 / std::max(warm_up_us, 1.0);
  if (affordable >= static_cast<double>(settings_.rounds)) return settings_.rounds;
  const int64_t rounds = std::max<int64_t>(1, static_cast<int64_t>(affordable));
  if (rounds == settings_.rounds) return rounds;
  measurement.skipped = absl::StrFormat("%d of %d rounds, --max-standard-seconds=%g", rounds,
                                        settings_.rounds, settings_.max_standard_seconds);
  return rounds;
}

absl::StatusOr<CompareRow> CompareBench::Measure(int64_t n) {
  CompareRow row;
  row.n = n;
  const Inputs inputs{DrawTensor(random_, settings_, n), DrawTensor(random_, settings_, n),
                      DrawTensor(random_, settings_, n)};
  const std::vector<int64_t> rows = DrawRows(random_, n);
  TESSERA_TRY_ASSIGN(v1::AttendRequest fused, EncodeRequest(inputs.Call(settings_)));
  v1::AttendRequest standard = fused;
  fused.set_backend(settings_.fused);
  standard.set_backend(settings_.standard);

  TESSERA_TRY_ASSIGN(const AttendResult oracle, OracleRows(inputs, rows));
  TESSERA_TRY_ASSIGN(const auto fused_result, WarmUp(fused, row.fused));
  std::optional<AttendResult> standard_result;
  int64_t standard_rounds = 0;
  if (!TooSlowToTry(n, row.standard)) {
    TESSERA_TRY_ASSIGN(standard_result, WarmUp(standard, row.standard));
    if (standard_result) {
      last_n_ = n;
      last_standard_us_ = standard_result->ledger.time().compute();
      standard_rounds = AffordableRounds(last_standard_us_, row.standard);
    }
  }

  // Right first: a wrong result has no speed.
  Bounds bounds = BoundsOf(settings_.dtype, *NumElements(inputs.q.tensor.shape));
  const auto check = [&](const char* name, const std::optional<AttendResult>& result,
                         Measurement& measurement) {
    if (!result) return;
    AttendResult sample;
    sample.output = TakeRows(result->output, rows);
    measurement.accuracy = Compare(sample, oracle);
    const std::string violation = Violation(measurement.accuracy, bounds);
    if (!violation.empty()) row.violation = absl::StrCat(name, " (", measurement.backend, "): ", violation);
  };
  check("standard", standard_result, row.standard);
  // DESIGN 7.16: beyond N = 4096, fp32 may be off by twice what unfused fp32 is.
  if (n > 4096 && settings_.dtype == v1::DATA_TYPE_FP32) {
    bounds.relative = std::max(bounds.relative, 2 * row.standard.accuracy.relative);
    bounds.worst_row = 5 * bounds.relative;
  }
  check("fused", fused_result, row.fused);
  if (!row.violation.empty()) return row;

  for (int64_t round = 0; round < settings_.rounds; ++round) {
    if (round < standard_rounds) {
      TESSERA_TRY_ASSIGN(const AttendResult result, client_.Attend(standard));
      Record(result.ledger, row.standard);
      row.standard.compute_us.push_back(result.ledger.time().compute());
    }
    if (fused_result) {
      TESSERA_TRY_ASSIGN(const AttendResult result, client_.Attend(fused));
      Record(result.ledger, row.fused);
      row.fused.compute_us.push_back(result.ledger.time().compute());
    }
  }
  return row;
}

}  // namespace tessera::client
