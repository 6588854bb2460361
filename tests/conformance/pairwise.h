// Covering arrays: few combinations of values such that every pair of values of two factors occurs in one of
// them.
#pragma once

#include <vector>

namespace tessera::testing {

// Each row names a value, 0 .. values[f] - 1, for each factor f. Deterministic: the same factors give the
// same rows.
std::vector<std::vector<int>> CoverAllPairs(const std::vector<int>& values);

}  // namespace tessera::testing
