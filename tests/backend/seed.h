// Seeds of property tests: drawn at run time and printed, so that every run looks elsewhere and a failure can
// be repeated with TESSERA_TEST_SEED=<seed>.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <iostream>
#include <random>

namespace tessera::testing {

inline uint64_t DrawSeed() {
  const char* fixed = std::getenv("TESSERA_TEST_SEED");
  const uint64_t seed = fixed != nullptr ? std::strtoull(fixed, nullptr, 10) : std::random_device{}();
  std::cout << "TESSERA_TEST_SEED=" << seed << std::endl;
  return seed;
}

}  // namespace tessera::testing
