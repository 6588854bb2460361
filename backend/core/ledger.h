// What one request cost: filled by the steps of its journey, returned with the reply, totalled in metrics.
// Bytes unless a name says otherwise. "measured" fields are read from allocators, clocks and copy sites,
// "modelled" ones computed from the plan.
#pragma once

#include <cstdint>
#include <string>

#include "backend/core/attention_problem.h"
#include "backend/core/backend.h"
#include "backend/core/launch_replay.h"

namespace tessera {

struct MemoryLedger {             // measured
  int64_t input = 0;              // tensor bytes that came with the request (q, k, v, masks, slopes, sinks)
  int64_t output = 0;             // tensor bytes of the reply
  int64_t kv_cache_resident = 0;  // bytes of server-held K/V that the request read
  int64_t workspace_peak = 0;     // device scratch of this request: the arena's high-water mark
  int64_t staging_peak = 0;       // pinned host memory
  int64_t device_peak = 0;        // device memory held for this request, tensors and workspace
  int64_t host_copies_in =
      0;  // how often the request's tensor bytes were copied on the host, and how many bytes
  int64_t host_copies_in_bytes = 0;
  int64_t host_copies_out = 0;
  int64_t host_copies_out_bytes = 0;
  int64_t transfers_to_device = 0;
  int64_t transfers_to_device_bytes = 0;
  int64_t transfers_from_device = 0;
  int64_t transfers_from_device_bytes = 0;
};

struct TrafficLedger {  // modelled
  int64_t hbm_read = 0;
  int64_t hbm_write = 0;
  int64_t standard_workspace =
      0;  // what materialising the scores would hold, in the input's accumulation type
  int64_t standard_hbm_bytes =
      0;  // and move: standard attention, FlashAttention paper (arXiv:2205.14135), Alg. 0
  double workspace_ratio = 0;  // standard_workspace / max(workspace_peak, 1)
  double hbm_ratio = 0;        // standard_hbm_bytes / (hbm_read + hbm_write)
};

struct ChoiceLedger {
  std::string backend;
  std::string device;
  std::string kernel;
  int32_t tile_q = 0, tile_kv = 0, stages = 0, num_splits = 0;
  int64_t fast_memory_bytes = 0;
  int32_t launches = 0;
  int32_t batch_requests = 1;   // requests that shared the launch
  int64_t batch_sequences = 0;  // sequences in that launch
};

struct TimeLedger {  // measured, microseconds; transfers and work may overlap
  // Waiting: for the executor and for memory; then, the tensors being in place, for others' work. The latter
  // is from the end of the first chunk's upload to the start of its work.
  double queue = 0;
  double transfer_in = 0;
  double compute = 0;  // of the launch, shared by the whole batch
  double transfer_out = 0;
  double total = 0;  // from the request's arrival at the service to its reply
};

struct Ledger {
  MemoryLedger memory;
  TrafficLedger traffic;
  ChoiceLedger choice;
  TimeLedger time;
  int64_t flops = 0;                // of this request: ProblemSize::flops
  double achieved_flops_per_s = 0;  // the batch's flops over time.compute
};

// What a materialising implementation would need for `problem`: scores and probabilities of the whole batch
// in fp32, hidden ones included. Saturates, as everything below, at INT64_MAX.
int64_t StandardWorkspaceBytes(const AttentionProblem& problem);
// What it would move: Q, K, V, mask and outputs once; scores and probabilities written and read once each.
int64_t StandardHbmBytes(const AttentionProblem& problem);

// Device-memory traffic of a fused, tiled pass over a valid problem. Read: Q and masks; K and V of a kv head
//   - once, when those of its keys that any query sees fit a cache of `cache_bytes`: the head's query tiles
//     are taken to run together and share it;
//   - else once per query tile, and only the K/V tiles in which that tile sees a key. A query tile is
//     plan.tile_q rows of a kv head, a row being one query of one of its query heads (packed GQA); tile_q 0
//     means all rows, tile_kv 0 all keys.
// With gpu.concurrent_tiles above 1 that is a GPU whose L2 is `cache_bytes`: its query tiles run many at once
// and share what they read. K and V are read once, and again as often as KeysReadAgain says.
// Written: O and LSE. Split partials (an fp32 row of O and its LSE per split) are written and read once.
// Slopes, sinks and sequence descriptions are too small to count. O(log) per sequence, whatever its lengths,
// and for a GPU what KeysReadAgain takes.
ModelledTraffic FusedTraffic(const AttentionProblem& problem, const Plan& plan, int64_t cache_bytes,
                             const GpuSchedule& gpu = {});

// Fills traffic and flops of `ledger` for a problem that moves `modelled`; ratios use
// ledger.memory.workspace_peak.
void AccountProblem(const AttentionProblem& problem, const ModelledTraffic& modelled, Ledger& ledger);
// The choice that `plan` is, of this very problem. batch_requests is left to whoever merged requests.
ChoiceLedger ChoiceOf(const AttentionProblem& problem, const Plan& plan, const Backend& backend);

}  // namespace tessera
