#include "client/cli/table.h"

#include <algorithm>
#include <cmath>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"

namespace tessera::client {
namespace {

constexpr size_t kTerminalWidth = 100;

std::string Padded(const std::string& text, size_t width, TextTable::Align align) {
  const std::string space(width > text.size() ? width - text.size() : 0, ' ');
  return align == TextTable::Align::kLeft ? text + space : space + text;
}

std::string Line(const std::string& indent, const std::vector<std::string>& cells,
                 const std::vector<size_t>& widths, const std::vector<TextTable::Column>& columns) {
  std::string line = indent;
  for (size_t i = 0; i < cells.size() && i < columns.size(); ++i) {
    if (i > 0) line += "  ";
    line += Padded(cells[i], widths[i], columns[i].align);
  }
  line.erase(line.find_last_not_of(' ') + 1);
  return line + "\n";
}

// Three significant digits, never an exponent.
std::string ThreeDigits(double value) {
  const double magnitude = std::abs(value);
  return absl::StrFormat("%.*f", magnitude < 10 ? 2 : magnitude < 100 ? 1 : 0, value);
}

}  // namespace

std::string TextTable::Format(const std::string& indent) const {
  std::vector<size_t> widths;
  std::vector<std::string> titles;
  for (const Column& column : columns_) {
    titles.push_back(column.title);
    widths.push_back(column.title.size());
  }
  for (const auto& row : rows_) {
    for (size_t i = 0; i < row.size() && i < widths.size(); ++i)
      widths[i] = std::max(widths[i], row[i].size());
  }
  std::string text;
  const bool titled =
      std::any_of(titles.begin(), titles.end(), [](const auto& title) { return !title.empty(); });
  if (titled) {
    size_t width = 2 * (widths.size() - 1);
    for (size_t w : widths) width += w;
    absl::StrAppend(&text, Line(indent, titles, widths, columns_), indent, std::string(width, '-'), "\n");
  }
  for (const auto& row : rows_) text += Line(indent, row, widths, columns_);
  return text;
}

std::string Wrap(const std::string& text, size_t indent) {
  std::string result;
  size_t column = indent;
  const std::vector<std::string> words = absl::StrSplit(text, ' ');
  for (const std::string& word : words) {
    if (column > indent && column + 1 + word.size() > kTerminalWidth) {
      absl::StrAppend(&result, "\n", std::string(indent, ' '));
      column = indent;
    } else if (column > indent) {
      result.push_back(' ');
      ++column;
    }
    result += word;
    column += word.size();
  }
  return result;
}

std::string HumanBytes(int64_t bytes) {
  if (std::abs(static_cast<double>(bytes)) < 1024) return absl::StrCat(bytes, " B");
  const char* const units[] = {"KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
  auto value = static_cast<double>(bytes) / 1024;
  size_t unit = 0;
  for (; std::abs(value) >= 1024 && unit + 1 < std::size(units); ++unit) value /= 1024;
  return absl::StrCat(ThreeDigits(value), " ", units[unit]);
}

std::string HumanMicroseconds(double us) {
  if (us == 0) return "0 us";
  if (us < 1e3) return absl::StrCat(ThreeDigits(us), " us");
  if (us < 1e6) return absl::StrCat(ThreeDigits(us / 1e3), " ms");
  return absl::StrCat(ThreeDigits(us / 1e6), " s");
}

std::string HumanMilliseconds(double us) {
  return us < 1e3 ? absl::StrFormat("%.3f", us / 1e3) : ThreeDigits(us / 1e3);
}

std::string HumanCount(double count) {
  const char* const units[] = {"", " k", " M", " G", " T", " P", " E"};
  if (std::abs(count) < 1e3) return absl::StrFormat("%.0f", count);
  size_t unit = 0;
  for (; std::abs(count) >= 1e3 && unit + 1 < std::size(units); ++unit) count /= 1e3;
  return absl::StrCat(ThreeDigits(count), units[unit]);
}

std::string HumanRatio(double ratio) { return absl::StrCat(ThreeDigits(ratio), "x"); }

std::string Plural(int64_t count, const std::string& noun) {
  const bool sibilant = absl::EndsWith(noun, "ch") || absl::EndsWith(noun, "s");
  return absl::StrCat(count, " ", noun, count == 1 ? "" : sibilant ? "es" : "s");
}

}  // namespace tessera::client
