#include "client/cli/options.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "client/cli/cli.h"
#include "client/cli/table.h"
#include "client/status_macros.h"

namespace tessera::client {
namespace {

constexpr size_t kHelpColumn = 30;

absl::Status Expected(const std::string& what, const std::string& text) {
  return absl::InvalidArgumentError(absl::StrCat("expected ", what, ", got '", text, "'"));
}

template <typename T>
absl::Status ParseList(const std::string& text, std::vector<T>* values) {
  values->clear();
  if (text.empty()) return absl::OkStatus();
  const std::vector<std::string> items = absl::StrSplit(text, ',');
  for (const std::string& item : items) TESSERA_TRY(ParseValue(item, &values->emplace_back()));
  return absl::OkStatus();
}

// Levenshtein's distance: insertions, deletions and substitutions between two words.
size_t EditDistance(const std::string& a, const std::string& b) {
  std::vector<size_t> row(b.size() + 1);
  std::iota(row.begin(), row.end(), size_t{0});
  for (size_t i = 1; i <= a.size(); ++i) {
    size_t diagonal = std::exchange(row[0], i);
    for (size_t j = 1; j <= b.size(); ++j) {
      const size_t substituted = diagonal + (a[i - 1] == b[j - 1] ? 0 : 1);
      diagonal = std::exchange(row[j], std::min({substituted, row[j] + 1, row[j - 1] + 1}));
    }
  }
  return row[b.size()];
}

}  // namespace

absl::Status ParseValue(const std::string& text, std::string* value) {
  *value = text;
  return absl::OkStatus();
}
absl::Status ParseValue(const std::string& text, int64_t* value) {
  return absl::SimpleAtoi(text, value) ? absl::OkStatus() : Expected("an integer", text);
}
absl::Status ParseValue(const std::string& text, uint64_t* value) {
  return absl::SimpleAtoi(text, value) ? absl::OkStatus() : Expected("a non-negative integer", text);
}
absl::Status ParseValue(const std::string& text, double* value) {
  return absl::SimpleAtod(text, value) ? absl::OkStatus() : Expected("a number", text);
}
absl::Status ParseValue(const std::string& text, float* value) {
  return absl::SimpleAtof(text, value) ? absl::OkStatus() : Expected("a number", text);
}
absl::Status ParseValue(const std::string& text, std::vector<std::string>* value) {
  return ParseList(text, value);
}
absl::Status ParseValue(const std::string& text, std::vector<int64_t>* value) {
  return ParseList(text, value);
}
absl::Status ParseValue(const std::string& text, std::vector<float>* value) { return ParseList(text, value); }

std::string DidYouMean(const std::string& typed, const std::vector<std::string>& known,
                       const std::string& prefix) {
  const std::string* best = nullptr;
  size_t best_distance = (typed.size() + 2) / 3 + 1;  // a typing mistake in three letters
  for (const std::string& candidate : known) {
    const size_t distance = EditDistance(typed, candidate);
    if (distance < best_distance) {
      best_distance = distance;
      best = &candidate;
    }
  }
  return best == nullptr ? "" : absl::StrCat("did you mean ", prefix, *best, "? ");
}

OptionTable::OptionTable(std::string command, std::string arguments, std::string description)
    : command_(std::move(command)), arguments_(std::move(arguments)), description_(std::move(description)) {}

void OptionTable::Section(std::string title) { section_ = std::move(title); }

void OptionTable::Add(Option option) {
  option.section = section_;
  options_.push_back(std::move(option));
}

void OptionTable::Switch(std::string name, bool* target, std::string help) {
  Add({std::move(name), "", std::move(help), [target](const std::string&) {
         *target = true;
         return absl::OkStatus();
       }});
}

void OptionTable::Choice(std::string name, std::vector<std::string> choices, std::string* target,
                         std::string help) {
  const std::string listed = absl::StrJoin(choices, "|");
  Add({std::move(name), listed, std::move(help),
       [choices = std::move(choices), listed, target](const std::string& text) {
         if (std::find(choices.begin(), choices.end(), text) == choices.end()) return Expected(listed, text);
         *target = text;
         return absl::OkStatus();
       }});
}

OptionTable::Option* OptionTable::Find(const std::string& name) {
  const auto found =
      std::find_if(options_.begin(), options_.end(), [&](const Option& o) { return o.name == name; });
  return found == options_.end() ? nullptr : &*found;
}

absl::Status OptionTable::Parse(const std::vector<std::string>& arguments) {
  for (size_t i = 0; i < arguments.size(); ++i) {
    const std::string& argument = arguments[i];
    if (argument == "--help" || argument == "-h") {
      help_requested_ = true;
      return absl::OkStatus();
    }
    if (!absl::StartsWith(argument, "--")) {
      return UsageError(
          absl::StrCat("unexpected argument '", argument, "'; options are written --name=value"));
    }
    const size_t equals = argument.find('=');
    const std::string name = argument.substr(2, equals == std::string::npos ? equals : equals - 2);
    Option* option = Find(name);
    if (option == nullptr) {
      std::vector<std::string> names;
      for (const Option& known : options_) names.push_back(known.name);
      return UsageError(absl::StrCat("unknown option --", name, "; ", DidYouMean(name, names, "--"),
                                     "'tessera ", command_, " --help' lists all"));
    }
    if (std::exchange(option->seen, true)) return UsageError(absl::StrCat("--", name, " is given twice"));
    const bool is_switch = option->placeholder.empty();
    if (is_switch && equals != std::string::npos) {
      return UsageError(absl::StrCat("--", name, " takes no value; leave it out to switch it off"));
    }
    std::string value;
    if (equals != std::string::npos) {
      value = argument.substr(equals + 1);
    } else if (!is_switch) {
      if (i + 1 == arguments.size()) {
        return UsageError(absl::StrCat("--", name, " needs a value: --", name, "=", option->placeholder));
      }
      value = arguments[++i];
    }
    if (absl::Status status = option->set(value); !status.ok()) {
      return UsageError(absl::StrCat("--", name, ": ", std::string(status.message())));
    }
  }
  return absl::OkStatus();
}

std::string OptionTable::Help() const {
  std::string help = absl::StrCat("Usage: tessera ", command_, " ", arguments_, arguments_.empty() ? "" : " ",
                                  "[OPTION...]\n\n", description_, "\n");
  std::string section;
  for (const Option& option : options_) {
    if (option.section != section) {
      section = option.section;
      absl::StrAppend(&help, "\n", section, ":\n");
    }
    std::string left = absl::StrCat("  --", option.name);
    if (!option.placeholder.empty()) absl::StrAppend(&left, "=", option.placeholder);
    const size_t column = left.size();
    help += left;
    if (column + 2 > kHelpColumn) absl::StrAppend(&help, "\n", std::string(kHelpColumn, ' '));
    if (column + 2 <= kHelpColumn) help.append(kHelpColumn - column, ' ');
    absl::StrAppend(&help, Wrap(option.help, kHelpColumn), "\n");
  }
  if (!footer_.empty()) absl::StrAppend(&help, "\n", footer_, "\n");
  return help;
}

}  // namespace tessera::client
