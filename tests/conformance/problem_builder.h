// Random attention problems with tensors of their own.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "backend/core/attention_problem.h"
#include "tests/conformance/problem_spec.h"

namespace tessera::testing {

// Every byte that no element of the problem occupies (unused tokens, gaps, padding), and all of o and lse
// before a run, holds this: a NaN in each floating-point type.
inline constexpr std::byte kPoison{0xff};

// A problem and the host memory behind it. Movable: the memory stays where it is.
class HostProblem {
 public:
  // The problem, over this object's memory; its pointers may be written through.
  const AttentionProblem& problem() const { return problem_; }

  // Memory of the masks of all sequences, which sequences[n].mask points into.
  const std::vector<std::byte>& mask_memory() const { return mask_; }

  // Each as num_elements of its tensor says.
  std::vector<std::byte>& o_memory() { return o_; }
  std::vector<std::byte>& lse_memory() { return lse_; }

 private:
  friend class ProblemBuilder;

  AttentionProblem problem_{};
  std::vector<std::byte> q_, k_, v_, o_, lse_, mask_;
  std::vector<float> alibi_slopes_, sinks_;
  std::vector<float> q_scales_, k_scales_, v_scales_;
  std::vector<Sequence> sequences_;
};

// Draws the problem that `spec` describes; equal arguments give equal bytes.
HostProblem BuildProblem(const ProblemSpec& spec, uint64_t seed);

}  // namespace tessera::testing
