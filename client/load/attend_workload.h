// Attend requests with random shapes and tensors.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "client/load/distribution.h"
#include "client/load/schedule.h"
#include "client/load/workload.h"

namespace tessera::load {

struct AttendShape {
  std::vector<client::DType> dtypes{v1::DATA_TYPE_FP32};  // a request has one of these, all equally likely
  int64_t q_heads = 8, kv_heads = 8, head_dim = 64;
  std::optional<Distribution> sequences;  // of one request; more than one make it ragged. Unset: 1
  std::optional<Distribution> q_len;      // of each sequence. Unset: 64
  std::optional<Distribution> kv_len;     // unset: the sequence's q_len
  client::DType output_dtype = v1::DATA_TYPE_UNSPECIFIED;
  bool lse = false;
  std::string backend = "auto";
  v1::AttentionOptions options;
  int64_t distinct = 16;  // requests drawn beforehand, sent in random order
};

// With `trace`, whose lengths are then those of the requests in its order, where it has some.
// INVALID_ARGUMENT or RESOURCE_EXHAUSTED for a shape that is none or does not fit a message.
absl::StatusOr<std::unique_ptr<Workload>> MakeAttendWorkload(const AttendShape& shape, const Trace* trace,
                                                             uint64_t seed);

}  // namespace tessera::load
