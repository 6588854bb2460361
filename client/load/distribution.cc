#include "client/load/distribution.h"

#include <algorithm>
#include <cmath>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"

namespace tessera::load {
namespace {

constexpr int64_t kLargest = int64_t{1} << 31;

absl::Status Bad(const std::string& text) {
  return absl::InvalidArgumentError(
      absl::StrCat("expected N, A..B, A/B/C or lognormal:MEDIAN:SIGMA:MAX with numbers from 1 to ", kLargest,
                   ", got '", text, "'"));
}

bool ParseNumber(const std::string& text, int64_t& value) {
  return absl::SimpleAtoi(text, &value) && value >= 1 && value <= kLargest;
}

}  // namespace

absl::StatusOr<Distribution> Distribution::Parse(const std::string& text) {
  Distribution result;
  result.text_ = text;
  std::vector<std::string> numbers;
  if (absl::StartsWith(text, "lognormal:")) {
    const std::vector<std::string> parts = absl::StrSplit(text, ':');
    result.kind_ = Kind::kLognormal;
    if (parts.size() != 4 || !absl::SimpleAtod(parts[2], &result.sigma_)) return Bad(text);
    if (!(result.sigma_ >= 0 && result.sigma_ <= 10)) return Bad(text);
    numbers = {parts[1], parts[3]};
  } else if (absl::StrContains(text, "..")) {
    result.kind_ = Kind::kUniform;
    numbers = absl::StrSplit(text, "..");
    if (numbers.size() != 2) return Bad(text);
  } else {
    numbers = absl::StrSplit(text, '/');
  }
  for (const std::string& number : numbers) {
    if (!ParseNumber(number, result.values_.emplace_back())) return Bad(text);
  }
  if (result.kind_ != Kind::kChoice && result.values_[0] > result.values_[1]) return Bad(text);
  return result;
}

int64_t Distribution::Draw(client::Random& random) const {
  switch (kind_) {
    case Kind::kUniform:
      return random.Between(values_[0], values_[1]);
    case Kind::kLognormal: {
      const double drawn = static_cast<double>(values_[0]) * std::exp(sigma_ * double{random.Normal()});
      return static_cast<int64_t>(std::clamp(std::round(drawn), 1.0, static_cast<double>(values_[1])));
    }
    case Kind::kChoice:
      break;
  }
  return random.Pick(values_);
}

int64_t Distribution::largest() const { return *std::max_element(values_.begin(), values_.end()); }

}  // namespace tessera::load
