#include "backend/core/launch_replay.h"

#include <algorithm>
#include <array>
#include <cstddef>
#include <limits>
#include <unordered_map>
#include <vector>

#include "backend/core/key_walk.h"
#include "backend/core/launch_order.h"
#include "backend/core/saturating.h"

namespace tessera {
namespace {

// Fitted to what Nsight Compute counted for 49 kinds of launches of the Hopper kernels on an H200
// (kernels/README.md): how much longer a step takes whose keys come from device memory, as a share; how far a
// multiprocessor's speed is from the mean at most, as a share; how long it takes from one row tile to the
// next, in K/V tiles. The first keeps blocks together: who comes first is held up, who follows catches up.
constexpr double kMissDelay = 0.0075;
constexpr double kSpeedSpread = 0.017;
constexpr double kRowTileDelay = 2;
// Of Q, which the L2 is told to drop first: the share that takes room as O does, fitted too.
constexpr double kQueryShare = 0.5;
// Which multiprocessors are the slow ones: of 120 draws the one that fits best.
constexpr uint32_t kDraw = 44;

// Bounds of the work: the steps that are aimed at, those after which the rest is extrapolated, and the chunks
// that an L2 must hold at least lest it be too coarse.
constexpr int64_t kAimedSteps = 20'000;
constexpr int64_t kMaxSteps = 100'000;
constexpr int64_t kMinCachedChunks = 128;
constexpr int64_t kMaxBlocks = 4096;
constexpr int64_t kMaxChunks = int64_t{1} << 20;

// Bits that look random.
uint32_t Hash(uint32_t x) {
  x += kDraw * 7919;
  x = (x ^ (x >> 16)) * 0x7feb352du;
  x = (x ^ (x >> 15)) * 0x846ca68bu;
  return x ^ (x >> 16);
}

// The last chunks used, up to a number of them.
class RecentlyUsed {
 public:
  explicit RecentlyUsed(int64_t capacity) : capacity_(capacity) {}

  // Whether the chunk was there. It is then, and is the one used last.
  bool Touch(int32_t chunk) {
    if (capacity_ == 0) return false;
    if (static_cast<size_t>(chunk) >= links_.size()) links_.resize(static_cast<size_t>(chunk) * 2 + 64);
    Link& link = links_[chunk];
    const bool cached = link.cached;
    if (cached) {
      if (newest_ == chunk) return true;
      Unlink(link);
    } else if (used_ < capacity_) {
      ++used_;
    } else {
      Link& oldest = links_[oldest_];
      oldest.cached = false;
      Unlink(oldest);
    }
    link = {newest_, kNone, true};
    (newest_ == kNone ? oldest_ : links_[newest_].newer) = chunk;
    newest_ = chunk;
    return cached;
  }

 private:
  static constexpr int32_t kNone = -1;
  struct Link {
    int32_t older = kNone, newer = kNone;
    bool cached = false;
  };

  void Unlink(const Link& link) {
    (link.newer == kNone ? newest_ : links_[link.newer].older) = link.older;
    (link.older == kNone ? oldest_ : links_[link.older].newer) = link.newer;
  }

  const int64_t capacity_;
  int64_t used_ = 0;
  int32_t newest_ = kNone, oldest_ = kNone;
  std::vector<Link> links_;  // by chunk
};

// From the A100 on the L2 is two partitions (NVIDIA A100 Tensor Core GPU Architecture, "A100 L2 Cache"). Each
// is home to half of memory, and caches for the multiprocessors next to it what the other is home to.
class L2 {
 public:
  explicit L2(int64_t chunks) : partitions_{RecentlyUsed(chunks / 2), RecentlyUsed(chunks / 2)} {}

  // For a multiprocessor next to partition `side`. Whether it was spared device memory.
  bool Read(int32_t chunk, uint32_t side) {
    const uint32_t home = HomeOf(chunk);
    return (side != home && partitions_[side].Touch(chunk)) || partitions_[home].Touch(chunk);
  }
  void Write(int32_t chunk) { partitions_[HomeOf(chunk)].Touch(chunk); }

 private:
  static uint32_t HomeOf(int32_t chunk) { return Hash(static_cast<uint32_t>(chunk)) % 2; }

  std::array<RecentlyUsed, 2> partitions_;
};

// Sums over a launch, in keys of one kv head each.
struct Sums {
  double walked = 0, read_once = 0;  // by all row tiles; by any
  bool any_shared = false;           // by several row tiles
};

Sums SumsOf(const AttentionProblem& problem, const Plan& plan) {
  Sums sums;
  for (int64_t n = 0; n < problem.num_sequences; ++n) {
    const Sequence& s = problem.sequences[n];
    if (s.q_len == 0 || s.kv_len == 0) continue;
    const Schedule schedule = ScheduleOf(problem, s, plan);
    const auto read = static_cast<double>(Length(KeysRead(s, schedule, 0, RowsOf(s, schedule) - 1)));
    const bool shared = RowTilesOf(s, schedule) > 1;
    sums.read_once += problem.num_kv_heads * read;
    sums.walked +=
        problem.num_kv_heads * (shared ? static_cast<double>(KeysReadByAllTiles(s, schedule)) : read);
    sums.any_shared |= shared;
  }
  return sums;
}

// Bytes of a row of Q and of O, as much as takes room in the L2.
double RowBytes(const AttentionProblem& p) {
  return kQueryShare * p.head_dim_qk * static_cast<double>(DTypeSize(p.q.dtype)) +
         p.head_dim_v * static_cast<double>(DTypeSize(p.o.dtype));
}

class Replay {
 public:
  Replay(const AttentionProblem& problem, const Plan& plan, int64_t l2_bytes, const GpuSchedule& gpu,
         const Sums& sums)
      : sums_(sums),
        order_(problem, plan, gpu.walked_bytes),
        held_(static_cast<size_t>(std::clamp<int64_t>(gpu.held_tiles, 1, 64))),
        chunk_keys_(ChunkKeys(problem, plan, l2_bytes, sums)),
        chunk_bytes_(SaturatingMultiply(chunk_keys_, KeyBytes(problem))),
        round_keys_(std::min(static_cast<double>(chunk_keys_),
                             sums.walked / static_cast<double>(order_.num_tiles()))),
        row_tile_delay_(kRowTileDelay * static_cast<double>(std::max(plan.tile_kv, 1))),
        l2_(l2_bytes / chunk_bytes_),
        num_outputs_(static_cast<int32_t>(std::min(2 * (l2_bytes / chunk_bytes_ + 1), kMaxChunks))),
        output_chunks_(plan.tile_q * RowBytes(problem) / static_cast<double>(chunk_bytes_)) {
    StartBlocks(std::min({gpu.concurrent_tiles, order_.num_tiles(), kMaxBlocks}));
  }

  // Keys taken from device memory again.
  double Run() {
    while (live_ > 0 && steps_ < kMaxSteps) {
      for (Block& block : blocks_) {
        if (block.drawn == 0) continue;
        // What a block takes longer than a round it has less of the next.
        block.time += block.speed * round_keys_;
        while (block.time > 0 && block.drawn > 0 && steps_ < kMaxSteps) Step(block);
      }
    }
    return live_ == 0 || walked_ == 0 ? again_ : again_ * std::max(sums_.walked / walked_, 1.0);
  }

 private:
  struct DrawnTile {
    RowTile tile;
    int64_t first_chunk;  // number of the pair's chunk 0
  };
  struct Block {
    std::vector<DrawnTile> tiles;  // a ring
    size_t current = 0, drawn = 0;
    int64_t key = 0;    // those of the current tile below it are left,
    int64_t place = 0;  // first of the chunk with this number
    double time = 0;    // left of the round, in keys
    double speed;
    uint32_t side;
  };

  static int64_t ChunkKeys(const AttentionProblem& problem, const Plan& plan, int64_t l2_bytes,
                           const Sums& sums) {
    const int64_t tile_kv = std::max(plan.tile_kv, 1);
    const int64_t coarsest = l2_bytes / kMinCachedChunks / KeyBytes(problem);
    const double aimed = std::max(std::min(sums.walked / double{kAimedSteps}, static_cast<double>(coarsest)),
                                  sums.read_once / double{kMaxChunks});
    return RoundUp(std::max<int64_t>(static_cast<int64_t>(std::min(aimed, 0x1p48)), 1), tile_kv);
  }

  // Which multiprocessor is how fast and next to which partition is not known. A block that starts holds its
  // first tile by its number; the others it draws at once, and so do all, again and again in the order of
  // their distance to the counter: the same blocks draw the longest tiles each time.
  void StartBlocks(int64_t count) {
    blocks_.resize(static_cast<size_t>(count));
    std::vector<size_t> by_distance(blocks_.size());
    for (size_t n = 0; n < blocks_.size(); ++n) {
      const uint32_t bits = Hash(static_cast<uint32_t>(n) + 1);
      blocks_[n].tiles.resize(held_);
      blocks_[n].side = bits % 2;
      blocks_[n].speed = 1 + kSpeedSpread * ((bits >> 16) / 32768.0 - 1);
      by_distance[n] = n;
    }
    for (Block& block : blocks_) Draw(block);
    std::sort(by_distance.begin(), by_distance.end(), [](size_t a, size_t b) {
      return Hash(~static_cast<uint32_t>(a)) < Hash(~static_cast<uint32_t>(b));
    });
    for (size_t n = 1; n < held_; ++n) {
      for (const size_t block : by_distance) Draw(blocks_[block]);
    }
    for (Block& block : blocks_) {
      if (block.drawn > 0) ++live_;
      StartTile(block);
    }
  }

  void Draw(Block& block) {
    DrawnTile& drawn = block.tiles[(block.current + block.drawn) % held_];
    if (!order_.Next(&drawn.tile)) return;
    const KeyRange& keys = drawn.tile.of_pair;
    const int64_t first = keys.begin / chunk_keys_;
    const auto [place, is_new] = first_chunks_.try_emplace(drawn.tile.pair, num_chunks_);
    if (is_new) num_chunks_ += static_cast<int32_t>(CeilDiv(keys.end, chunk_keys_) - first);
    drawn.first_chunk = place->second - first;
    ++block.drawn;
  }

  void StartTile(Block& block) const {
    if (block.drawn == 0) return;
    block.key = block.tiles[block.current].tile.keys.end;
    block.place = (block.key - 1) / chunk_keys_;
  }

  void Step(Block& block) {
    ++steps_;
    const DrawnTile& drawn = block.tiles[block.current];
    if (block.key > drawn.tile.keys.begin) {
      WalkChunk(block, drawn);
    }
    if (block.key <= drawn.tile.keys.begin) NextTile(block);
  }

  void WalkChunk(Block& block, const DrawnTile& drawn) {
    const int64_t place = block.place--;
    const int64_t begin = place * chunk_keys_;
    const int64_t next_key = std::max(begin, drawn.tile.keys.begin);
    const auto keys = static_cast<double>(block.key - next_key);
    const auto chunk = static_cast<int32_t>(drawn.first_chunk + place);
    block.time -= keys;
    walked_ += keys;
    block.key = next_key;
    if (l2_.Read(2 * chunk, block.side)) return;
    block.time -= kMissDelay * keys;
    if (static_cast<size_t>(chunk) >= was_read_.size()) was_read_.resize(static_cast<size_t>(chunk) * 2 + 64);
    // All of the chunk: its other readers find it there, who walks more of it too.
    const KeyRange& of_pair = drawn.tile.of_pair;
    if (was_read_[chunk]) {
      again_ +=
          static_cast<double>(std::min(begin + chunk_keys_, of_pair.end) - std::max(begin, of_pair.begin));
    }
    was_read_[chunk] = true;
  }

  // Chunks of Q and O take odd numbers. No such number is used again while it is cached.
  void NextTile(Block& block) {
    for (outputs_ += output_chunks_; outputs_ >= 1; outputs_ -= 1) {
      l2_.Write(2 * next_output_ + 1);
      next_output_ = (next_output_ + 1) % num_outputs_;
    }
    block.time -= row_tile_delay_;
    block.current = (block.current + 1) % held_;
    --block.drawn;
    Draw(block);
    if (block.drawn == 0) --live_;
    StartTile(block);
  }

  const Sums& sums_;
  LaunchOrder order_;
  const size_t held_;
  const int64_t chunk_keys_, chunk_bytes_;
  const double round_keys_;  // that a block of mean speed walks in a round
  const double row_tile_delay_;
  L2 l2_;
  const int32_t num_outputs_;
  const double output_chunks_;  // that a row tile's Q and O are
  std::vector<Block> blocks_;
  int64_t live_ = 0, steps_ = 0;
  std::unordered_map<int64_t, int32_t> first_chunks_;  // by pair
  int32_t num_chunks_ = 0, next_output_ = 0;
  double outputs_ = 0;
  std::vector<bool> was_read_;
  double walked_ = 0, again_ = 0;
};

}  // namespace

double KeysReadAgain(const AttentionProblem& problem, const Plan& plan, int64_t l2_bytes,
                     const GpuSchedule& gpu) {
  const Sums sums = SumsOf(problem, plan);
  if (!sums.any_shared) return 0;
  const double row_bytes =
      static_cast<double>(SizeOf(problem).q_tokens) * problem.num_q_heads * RowBytes(problem);
  const double bytes = sums.read_once * static_cast<double>(KeyBytes(problem)) + row_bytes;
  if (bytes <= static_cast<double>(l2_bytes) / 2) return 0;  // a partition holds it all
  return Replay(problem, plan, l2_bytes, gpu, sums).Run();
}

}  // namespace tessera
