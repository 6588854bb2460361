// A finished request as small problems: blocks of query rows, each of one sequence with all of its keys.
#pragma once

#include <cstdint>
#include <vector>

#include "server/host_buffer.h"
#include "server/request_codec.h"

namespace tessera {

struct ShadowSlice {
  int64_t sequence = 0;
  int64_t first_row = 0, num_rows = 0;
  int64_t flops = 0;  // of all keys, visible or not: what standard attention takes
};

// How much of a request is replayed, and in what pieces.
struct ShadowBudget {
  int64_t slice_flops = 0;
  int64_t request_flops = 0;
};

// The slices to replay: all rows where they fit the budget, else slices drawn at random by `seed` until it is
// spent. Empty where there are no rows, or each of them alone passes the budget.
std::vector<ShadowSlice> ChooseSlices(const AttentionProblem& problem, const ShadowBudget& budget,
                                      uint64_t seed);

// One slice of `request` as a request of its own. Its sources read where those of `request` do, its inputs
// are not bound; its output, which has no memory yet, is contiguous (row, head, dim) of `output_dtype`.
DecodedRequest RequestOf(const DecodedRequest& request, const ShadowSlice& slice, DType output_dtype);

}  // namespace tessera
