// The order in which a GPU starts the row tiles of a fused launch.
#pragma once

#include <cstdint>
#include <vector>

#include "backend/core/attention_problem.h"
#include "backend/core/backend.h"
#include "backend/core/key_walk.h"

namespace tessera {

// A tile of the rows of one (sequence, kv head) pair.
struct RowTile {
  int64_t pair;      // sequence * num_kv_heads + kv head
  KeyRange of_pair;  // that any of the pair's rows reads; the same for all its tiles
  KeyRange keys;     // that this one reads, from the last to the first
};

// Sequences with the longest walks come first; those of equally many row tiles follow each other, a run. The
// pairs of a run are walked in groups: the last tiles of all of a group's pairs, then the ones before. A
// group is as many pairs as `walked_bytes` hold keys and values of, at least one, and groups of a run are
// even. This is what the CUDA kernels' tables (kernels/cuda/device_problem.h) make of a launch, but for
// groups of heads that they cannot pack into one tile.
class LaunchOrder {
 public:
  // Keeps references to the problem.
  LaunchOrder(const AttentionProblem& problem, const Plan& plan, int64_t walked_bytes);

  int64_t num_tiles() const { return num_tiles_; }
  // The next tile. False: there is none.
  bool Next(RowTile* tile);

 private:
  struct Entry {
    int64_t sequence, longest_walk, tiles;
  };

  bool NextRun();
  bool NextGroup();

  const AttentionProblem& problem_;
  const Plan& plan_;
  const int64_t walked_bytes_;
  int64_t num_tiles_ = 0;
  std::vector<Entry> order_;                 // of sequences with tiles
  size_t run_begin_ = 0, run_end_ = 0;       // in order_
  int64_t group_pairs_ = 0, run_pairs_ = 0;  // pairs of a run are sequence by sequence
  int64_t group_begin_ = 0, group_end_ = 0;  // in the run's pairs
  int64_t pair_ = 0, tile_ = 0;              // of the group, next
};

}  // namespace tessera
