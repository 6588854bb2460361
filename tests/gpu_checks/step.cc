#include "tests/gpu_checks/step.h"

#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace tessera::gpu_checks {
namespace {

StepResult Result(Outcome outcome, std::string message) {
  StepResult result;
  result.outcome = outcome;
  result.message = std::move(message);
  return result;
}

}  // namespace

const char* Name(Outcome outcome) {
  switch (outcome) {
    case Outcome::kPassed:
      return "passed";
    case Outcome::kFailed:
      return "failed";
    case Outcome::kSkipped:
      break;
  }
  return "skipped";
}

StepResult Passed(std::string message) { return Result(Outcome::kPassed, std::move(message)); }
StepResult Failed(std::string message) { return Result(Outcome::kFailed, std::move(message)); }
StepResult Skipped(std::string message) { return Result(Outcome::kSkipped, std::move(message)); }

bool Step::MatchedBy(const std::string& selection) const {
  return name == selection || absl::StartsWith(name, absl::StrCat(selection, "."));
}

void Findings::AtMost(const std::string& what, double value, double bound, bool judged) {
  Add(value <= bound, judged, absl::StrFormat("%s: %.15g, expected at most %.15g", what, value, bound),
      {{"what", what}, {"value", value}, {"at_most", bound}});
}

void Findings::AtLeast(const std::string& what, double value, double bound, bool judged) {
  Add(value >= bound, judged, absl::StrFormat("%s: %.15g, expected at least %.15g", what, value, bound),
      {{"what", what}, {"value", value}, {"at_least", bound}});
}

void Findings::Expect(bool condition, const std::string& what) {
  Add(condition, true, what, {{"what", what}});
}

void Findings::Add(bool ok, bool judged, const std::string& line, Json json) {
  const char* const verdict = ok ? "ok" : judged ? "FAILED" : "off, not judged on this device";
  absl::StrAppend(&text_, line, " (", verdict, ")\n");
  if (!ok && judged && first_failure_.empty()) first_failure_ = line;
  json["ok"] = ok;
  json["judged"] = judged;
  json_.push_back(std::move(json));
}

}  // namespace tessera::gpu_checks
