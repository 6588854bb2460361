// The options that describe an attention request, shared by attend and explain.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "client/attend_call.h"
#include "client/cli/options.h"

namespace tessera::client {

struct RequestOptions {
  std::string layout = "packed";
  std::vector<int64_t> q_lens, kv_lens;
  std::optional<float> scale;
  bool causal = false;
  std::string alignment = "bottom-right";
  std::optional<int64_t> window_left, window_right;
  std::optional<float> softcap;
  std::string alibi;
  std::vector<float> sinks;
  std::vector<float> q_scales, k_scales, v_scales;
  std::vector<int64_t> diagonal_offsets;
  std::string output_dtype;
  bool lse = false;
  std::string backend = "auto";
  std::string id;

  void Register(OptionTable& table);
  // Fills everything of `call` but its tensors, and the scales of those that have some already; reads
  // call.q's shape for --alibi=auto and a single sink.
  absl::Status Apply(AttendCall& call) const;
};

// The slopes of the ALiBi paper (arXiv:2108.12409): 2^(-8/n), 2^(-16/n), ... for n heads, and for an n that
// is no power of two the rest from the sequence for twice as many heads.
std::vector<float> AlibiSlopes(int64_t heads);

// Names of the wire's layouts: "packed", "bshd", "bhsd".
std::string LayoutName(v1::Layout layout);
// Of such a name.
v1::Layout LayoutOf(const std::string& name);

}  // namespace tessera::client
