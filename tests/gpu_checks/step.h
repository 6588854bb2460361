// One check of an installation: what it is called, what it does, what came of it.
#pragma once

#include <chrono>
#include <functional>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

namespace tessera::gpu_checks {

using Json = nlohmann::ordered_json;

enum class Outcome { kPassed, kFailed, kSkipped };
const char* Name(Outcome outcome);  // "passed", "failed", "skipped"

struct StepResult {
  Outcome outcome = Outcome::kPassed;
  std::string message;               // one line: the figures, or what is wrong
  std::vector<std::string> command;  // the program that was run, if it is one
  Json data = nullptr;               // what was measured
  std::string output;                // what it printed
  std::string log;                   // what it, and its server, logged
  double seconds = 0;
};

StepResult Passed(std::string message);
StepResult Failed(std::string message);
StepResult Skipped(std::string message);

// `run` gets the time it may take; it ends what it started by then.
struct Step {
  std::string name;  // "conformance.cuda_fused"
  std::function<StepResult(std::chrono::seconds timeout)> run;

  // "conformance", or the whole name.
  bool MatchedBy(const std::string& selection) const;
};

// Whether `condition` held, for people and as JSON; all of them make a step's outcome.
class Findings {
 public:
  // "fused workspace with LSE: 262144 B, expected at most 1048576 B". A finding with `judged` false is
  // reported only.
  void AtMost(const std::string& what, double value, double bound, bool judged = true);
  void AtLeast(const std::string& what, double value, double bound, bool judged = true);
  void Expect(bool condition, const std::string& what);

  const std::string& text() const { return text_; }
  const std::string& first_failure() const { return first_failure_; }
  const Json& json() const { return json_; }

 private:
  void Add(bool ok, bool judged, const std::string& line, Json json);

  std::string text_, first_failure_;
  Json json_ = Json::array();
};

}  // namespace tessera::gpu_checks
