// Text for people: aligned tables and numbers with units.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace tessera::client {

// Columns are as wide as their widest cell, two spaces apart. Rows may have fewer cells than there are
// columns.
class TextTable {
 public:
  enum class Align { kLeft, kRight };
  struct Column {
    std::string title;
    Align align = Align::kRight;
  };

  explicit TextTable(std::vector<Column> columns) : columns_(std::move(columns)) {}

  void AddRow(std::vector<std::string> cells) { rows_.push_back(std::move(cells)); }
  // Titles, a rule and the rows; no titles and no rule when all titles are empty. Lines begin with `indent`.
  std::string Format(const std::string& indent = "") const;

 private:
  std::vector<Column> columns_;
  std::vector<std::vector<std::string>> rows_;
};

// `text` with line breaks so that it fits 100 columns, its first line too, when it begins at column `indent`.
std::string Wrap(const std::string& text, size_t indent);

std::string HumanBytes(int64_t bytes);     // "0 B", "512 B", "16.0 KiB", "1.50 GiB"
std::string HumanMicroseconds(double us);  // "12.3 us", "4.56 ms", "1.23 s"
std::string HumanMilliseconds(double us);  // always ms, for columns to be compared: "0.123", "4.56", "1234"
std::string HumanCount(double count);      // "950", "1.25 k", "17.2 G"
std::string HumanRatio(double ratio);      // "512x", "2.4x"
std::string Plural(int64_t count, const std::string& noun);  // "1 launch", "2 launches"

}  // namespace tessera::client
