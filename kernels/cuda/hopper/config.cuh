// Tile shapes of the Hopper kernels.
#pragma once

#include "kernels/cuda/hopper/logit_policies.cuh"
#include "kernels/cuda/hopper/tiles.cuh"

namespace tessera::kernels::cuda::hopper {

// kDimQk, kDimV: what the head dims are padded to, by zero fill in shared memory. A consumer warpgroup owns
// 64 rows. LogitPolicy: one of logit_policies.cuh.
template <typename ElementType, int kDimQkPadded, int kDimVPadded, int kWarpgroups, int kKeys, int kNumStages,
          int kNumQueryStages, template <class> class LogitPolicy = PlainLogits>
struct Config {
  using Element = ElementType;
  using Logits = LogitPolicy<Config>;
  using Output = Element;  // what the epilogue is quick for
  static constexpr int kDimQk = kDimQkPadded;
  static constexpr int kDimV = kDimVPadded;
  static constexpr int kConsumers = kWarpgroups;
  static constexpr int kTileQ = kConsumers * 64;
  static constexpr int kTileKv = kKeys;
  static constexpr int kStages = kNumStages;
  static constexpr int kValueStages = kNumStages;
  static constexpr int kQueryStages = kNumQueryStages;
  // Row tiles that are a block's at any time. The fewer they are, the more evenly a launch ends.
  static constexpr int kPostings = kQueryStages + 1;
  static constexpr int kThreads = (kConsumers + 1) * 128;
  static constexpr int kProducerRegisters = kConsumers == 3 ? 32 : 40;
  static constexpr int kConsumerRegisters = kConsumers == 3 ? 160 : 232;
  // O leaves through the room of the row tile's queries; with one stage that room is wanted at once.
  static constexpr bool kStagesOutput = kQueryStages > 1 && kDimV <= kDimQk;
  // Consumers take turns at the tensor cores: while one computes a softmax, another multiplies.
  static constexpr bool kTakeTurns = true;
  // Each leaves out tiles of keys that are hidden from all its rows. On a diagonal, tiles as wide as the row
  // tile is high leave nothing out.
  static constexpr bool kOwnWalks = kTileKv < kTileQ;
  // Log2 of how much a row's largest weight may exceed 1 before accumulators are rescaled.
  static constexpr float kRescaleThreshold = 8;
};

}  // namespace tessera::kernels::cuda::hopper
