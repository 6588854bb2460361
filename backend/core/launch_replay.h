// What the blocks of a GPU that walk the same keys spare each other, and what the L2 does not keep.
#pragma once

#include <cstdint>

#include "backend/core/attention_problem.h"
#include "backend/core/backend.h"

namespace tessera {

// How a GPU runs the row tiles of a launch.
struct GpuSchedule {
  int64_t concurrent_tiles = 1;  // multiprocessors times blocks of each
  int64_t walked_bytes = 0;      // LaunchOrder
  int64_t held_tiles = 1;        // that a block has drawn at any time, the one it works on included
};

// Of the (key, kv head) pairs of a launch, how many are taken from device memory beside the first time, with
// an L2 of `l2_bytes`. Replays the launch: blocks draw row tiles in LaunchOrder, each walks its keys chunk by
// chunk from the last to the first at nearly the same speed, and an L2 remembers what was used last.
// Deterministic. The work is bounded: chunks grow with the launch, and of one that is still too long the
// beginning stands for all of it. Takes 0.3 to 0.5 ms, up to 2 ms where the launch takes over 10 ms, and next
// to nothing where everything fits the L2 or no row tile shares its keys.
double KeysReadAgain(const AttentionProblem& problem, const Plan& plan, int64_t l2_bytes,
                     const GpuSchedule& gpu);

}  // namespace tessera
