// Random whole numbers, such as the lengths of sequences, from a description on the command line.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "client/cli/random.h"

namespace tessera::load {

class Distribution {
 public:
  // N; A..B, all equally likely; A/B/C, one of these; lognormal:MEDIAN:SIGMA:MAX, as lengths of prompts often
  // are. Numbers are at least 1. The error says what was expected and what `text` is.
  static absl::StatusOr<Distribution> Parse(const std::string& text);

  int64_t Draw(client::Random& random) const;
  int64_t largest() const;
  const std::string& text() const { return text_; }

 private:
  enum class Kind { kChoice, kUniform, kLognormal };

  std::string text_;
  Kind kind_ = Kind::kChoice;
  std::vector<int64_t> values_;  // the choices, both ends, or median and max
  double sigma_ = 0;
};

}  // namespace tessera::load
