#include "tests/conformance/pairwise.h"

#include <algorithm>
#include <set>
#include <tuple>

namespace tessera::testing {
namespace {

// Value a of factor f together with value b of factor g, f < g.
using Pair = std::tuple<int, int, int, int>;

Pair MakePair(int f, int a, int g, int b) { return f < g ? Pair(f, a, g, b) : Pair(g, b, f, a); }

std::set<Pair> AllPairs(const std::vector<int>& values) {
  std::set<Pair> pairs;
  const int factors = static_cast<int>(values.size());
  for (int f = 0; f < factors; ++f) {
    for (int g = f + 1; g < factors; ++g) {
      for (int a = 0; a < values[f]; ++a) {
        for (int b = 0; b < values[g]; ++b) pairs.insert({f, a, g, b});
      }
    }
  }
  return pairs;
}

// How many open pairs value `a` of factor `f` closes with the values that `row` has so far (-1: none yet).
int Gain(const std::set<Pair>& open, const std::vector<int>& row, int f, int a) {
  int gain = 0;
  for (int g = 0; g < static_cast<int>(row.size()); ++g) {
    if (g != f && row[g] >= 0) gain += static_cast<int>(open.count(MakePair(f, a, g, row[g])));
  }
  return gain;
}

// Starts with an open pair, so that every row closes at least one, then takes the best value factor by
// factor.
std::vector<int> BuildRow(const std::vector<int>& values, const std::set<Pair>& open, size_t number) {
  const auto [f, a, g, b] = *open.begin();
  std::vector<int> row(values.size(), -1);
  row[f] = a;
  row[g] = b;
  for (int factor = 0; factor < static_cast<int>(values.size()); ++factor) {
    if (row[factor] >= 0) continue;
    int best = 0, best_gain = -1;
    for (int offset = 0; offset < values[factor]; ++offset) {
      // Ties go round, so that no value is a default that the others are rarely combined with.
      const int value =
          static_cast<int>((number + static_cast<size_t>(offset)) % static_cast<size_t>(values[factor]));
      const int gain = Gain(open, row, factor, value);
      if (gain > best_gain) std::tie(best, best_gain) = std::tuple(value, gain);
    }
    row[factor] = best;
  }
  return row;
}

}  // namespace

std::vector<std::vector<int>> CoverAllPairs(const std::vector<int>& values) {
  std::set<Pair> open = AllPairs(values);
  std::vector<std::vector<int>> rows;
  while (!open.empty()) {
    std::vector<int> row = BuildRow(values, open, rows.size());
    for (int f = 0; f < static_cast<int>(row.size()); ++f) {
      for (int g = f + 1; g < static_cast<int>(row.size()); ++g) open.erase({f, row[f], g, row[g]});
    }
    rows.push_back(std::move(row));
  }
  return rows;
}

}  // namespace tessera::testing
