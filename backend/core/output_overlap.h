// Whether the rows that a problem writes are all distinct. Internal to Validate().
#pragma once

#include <cstdint>
#include <optional>
#include <utility>

#include "tessera/attention.h"

namespace tessera {

// How (token, head) rows of `row_elements` elements lie in an output: row (t, h) begins at
// t * token_stride + h * head_stride. All fields in [0, kMaxExtent], heads and row_elements >= 1.
struct OutputLayout {
  int64_t token_stride;
  int64_t head_stride;
  int64_t heads;
  int64_t row_elements;
};

// Two sequences, as indices with first < second, that write a common element; equal indices mean that rows of
// one sequence collide. nullopt when every row is its own. Understands the two nested layouts, heads inside
// tokens and tokens inside heads; a layout that interleaves rows otherwise counts as a collision. O(n log n)
// for n sequences, whose begins and lengths are validated.
std::optional<std::pair<int64_t, int64_t>> FindOutputOverlap(const OutputLayout& layout,
                                                             const tessera_sequence* sequences,
                                                             int64_t num_sequences);

}  // namespace tessera
