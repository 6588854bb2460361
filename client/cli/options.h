// The options of one sub-command: a table that parses them and writes --help.
//
// absl::flags serves one global set of flags per program, without '-' in names; sub-commands with sets of
// their own, "did you mean" and a --help that shows only what applies need this small table instead.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"

namespace tessera::client {

// Parsers of option values; the error says what was expected. Lists are separated by commas.
absl::Status ParseValue(const std::string& text, std::string* value);
absl::Status ParseValue(const std::string& text, int64_t* value);
absl::Status ParseValue(const std::string& text, uint64_t* value);
absl::Status ParseValue(const std::string& text, double* value);
absl::Status ParseValue(const std::string& text, float* value);
absl::Status ParseValue(const std::string& text, std::vector<std::string>* value);
absl::Status ParseValue(const std::string& text, std::vector<int64_t>* value);
absl::Status ParseValue(const std::string& text, std::vector<float>* value);
template <typename T>
absl::Status ParseValue(const std::string& text, std::optional<T>* value) {
  return ParseValue(text, &value->emplace());
}

// "did you mean --causal? " (with `prefix` "--"), or "" when nothing is near.
std::string DidYouMean(const std::string& typed, const std::vector<std::string>& known,
                       const std::string& prefix);

// Options are written --name=value or --name value; a switch is --name. Targets hold the defaults and outlive
// Parse.
class OptionTable {
 public:
  // `command`: "attend"; `arguments`: those to name in the usage line besides [OPTION...], or "";
  // `description`: paragraphs above the options.
  OptionTable(std::string command, std::string arguments, std::string description);

  void Section(std::string title);  // of the options that follow
  void Switch(std::string name, bool* target, std::string help);
  void Choice(std::string name, std::vector<std::string> choices, std::string* target, std::string help);
  template <typename T>
  void Value(std::string name, std::string placeholder, T* target, std::string help) {
    Add({std::move(name), std::move(placeholder), std::move(help),
         [target](const std::string& text) { return ParseValue(text, target); }});
  }
  void Footer(std::string text) { footer_ = std::move(text); }

  // A usage error (cli.h) for an option that is unknown, repeated, or lacks a value or has a wrong one, and
  // for any argument that is not an option.
  absl::Status Parse(const std::vector<std::string>& arguments);
  bool help_requested() const { return help_requested_; }
  std::string Help() const;

 private:
  struct Option {
    std::string name, placeholder, help;  // a switch has no placeholder
    std::function<absl::Status(const std::string&)> set;
    std::string section = {};
    bool seen = false;
  };
  void Add(Option option);
  Option* Find(const std::string& name);

  std::string command_, arguments_, description_, footer_, section_ = "Options";
  std::vector<Option> options_;
  bool help_requested_ = false;
};

}  // namespace tessera::client
