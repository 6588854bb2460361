// How a large launch is cut into parts whose transfers and work overlap.
#pragma once

#include <cstdint>
#include <vector>

#include "backend/core/attention_problem.h"
#include "server/operand.h"

namespace tessera {

// A part of a problem that is a problem of its own: the (sequence, kv head) pairs of a range of sequences
// and, where that is one sequence, of a range of its kv heads. Nothing that is computed crosses a chunk's
// border.
struct Chunk {
  int64_t first_sequence = 0, num_sequences = 0;
  int32_t first_kv_head = 0, num_kv_heads = 0;
  // Where its rows lie. The ranges of all chunks cover each operand's memory exactly once, in order, what
  // lies between the rows included.
  OperandRanges ranges;
};

struct ChunkLimits {
  // A chunk's own transfers should take longer than a launch and its events: 8 MiB take 150 us at 55 GB/s.
  int64_t min_bytes = int64_t{8} << 20;
  // Past this, less and less is left to overlap: the first upload and the last download, an eighth of each.
  int max_chunks = 8;
};

// The chunks of a valid problem, in the order of its memory: about equal in bytes, few of them smaller than
// limits.min_bytes, and rarely more than limits.max_chunks. One, which is everything, where the problem is
// small or its strides interleave the rows of different sequences and heads.
std::vector<Chunk> SplitLaunch(const AttentionProblem& problem, const ChunkLimits& limits = {});

// All of `problem` as one chunk.
Chunk WholeLaunch(const AttentionProblem& problem);

// `chunk` of `problem` as a problem. `sequences` is filled, and must outlive the problem.
AttentionProblem ProblemOf(const AttentionProblem& problem, const Chunk& chunk,
                           std::vector<Sequence>& sequences);

}  // namespace tessera
