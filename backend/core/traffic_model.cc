// The modelled half of the ledger: what a fused pass moves, and what materialising the scores would.
#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "backend/core/ledger.h"
#include "backend/core/saturating.h"

namespace tessera {
namespace {

constexpr int64_t kFp32Bytes = 4;

// Of a GPU's L2, what holds different data when every multiprocessor reads the same keys. From the A100 on L2
// is two partitions, each of which caches for the multiprocessors next to it (NVIDIA A100 Tensor Core GPU
// Architecture, "A100 L2 Cache"): such keys are there twice.
constexpr double kEffectiveL2Share = 0.5;

// Bytes of the tensors that any implementation moves once.
struct OperandBytes {
  int64_t q, kv, mask, o, lse;
};

int64_t MaskBytes(const AttentionProblem& p, const Sequence& s) {
  if (p.mask_kind == TESSERA_MASK_NONE) return 0;
  // A stride of 0 broadcasts: the same elements serve every index.
  const int64_t heads = s.mask_head_stride == 0 ? 1 : p.num_q_heads;
  const int64_t rows = s.mask_q_stride == 0 ? std::min<int64_t>(s.q_len, 1) : s.q_len;
  const int64_t columns = s.mask_kv_stride == 0 ? std::min<int64_t>(s.kv_len, 1) : s.kv_len;
  return SaturatingProduct(heads, rows, columns, DTypeSize(p.mask_dtype));
}

OperandBytes OperandBytesOf(const AttentionProblem& p) {
  OperandBytes bytes{};
  const ProblemSize size = SizeOf(p);
  const int64_t input_bytes = DTypeSize(p.q.dtype);
  bytes.q = SaturatingProduct(size.q_tokens, int64_t{p.num_q_heads}, int64_t{p.head_dim_qk}, input_bytes);
  bytes.kv = SaturatingProduct(size.kv_tokens, int64_t{p.num_kv_heads}, int64_t{p.head_dim_qk} + p.head_dim_v,
                               input_bytes);
  bytes.o =
      SaturatingProduct(size.q_tokens, int64_t{p.num_q_heads}, int64_t{p.head_dim_v}, DTypeSize(p.o.dtype));
  bytes.lse = WantsLse(p) ? SaturatingProduct(size.q_tokens, int64_t{p.num_q_heads}, kFp32Bytes) : 0;
  for (int64_t n = 0; n < p.num_sequences; ++n) {
    bytes.mask = SaturatingAdd(bytes.mask, MaskBytes(p, p.sequences[n]));
  }
  return bytes;
}

// Sum over i in [0, n) of floor((a * i + b) / m), for n, a, b >= 0, m > 0. Reduces (a, m) as Euclid's
// algorithm does: O(log m). The sum counts lattice points under a line; each step swaps the axes.
Int128 FloorSum(Int128 n, Int128 m, Int128 a, Int128 b) {
  Int128 sum = 0;
  while (n > 0) {
    sum += (n - 1) * n / 2 * (a / m) + n * (b / m);
    a %= m;
    b %= m;
    const Int128 top = a * n + b;
    if (top < m) break;
    n = top / m;
    b = top % m;
    std::swap(a, m);
  }
  return sum;
}

// How the scores of one (sequence, kv head) pair are walked: tile_q rows at a time, a row being a (query,
// head of the group) pair and a query's heads lying next to each other, along K/V tiles on multiples of
// tile_kv.
struct Schedule {
  int64_t group, tile_q, tile_kv;
};

// Of the tiles t in [0, count), those with t * tile_q + shift <= bound.
Int128 CountUpTo(Int128 bound, Int128 shift, Int128 tile_q, Int128 count) {
  return bound < shift ? 0 : std::min<Int128>((bound - shift) / tile_q + 1, count);
}

// The keys, in whole K/V tiles, of which one is visible to one of the rows [first, last].
KeyRange KeysRead(const Sequence& s, const Schedule& schedule, int64_t first, int64_t last) {
  const int64_t begin = VisibleKeys(s, first / schedule.group).begin;
  const int64_t end = VisibleKeys(s, last / schedule.group).end;
  if (end <= begin) return {begin, begin};
  return {RoundDown(begin, schedule.tile_kv), std::min(RoundUp(end, schedule.tile_kv), s.kv_len)};
}

int64_t ToInt64(double value) {
  return value < 0x1p63 ? static_cast<int64_t>(value) : std::numeric_limits<int64_t>::max();
}

int64_t Length(const KeyRange& keys) { return keys.end - keys.begin; }

// The sum of KeysRead over all tiles of `rows` rows, without walking them. The keys that tile t reads begin
// and end at clamp(floor((t * tile_q + shift) / group), 0, kv_len), rounded to K/V tiles, for a shift of
// either end: a FloorSum over the tiles where nothing is clamped, and a constant elsewhere.
Int128 KeysReadByAllTiles(const Sequence& s, const Schedule& schedule, int64_t rows) {
  const Int128 group = schedule.group, tile_q = schedule.tile_q, tile_kv = schedule.tile_kv,
               kv_len = s.kv_len;
  const Int128 whole =
      CeilDiv(rows, schedule.tile_q) - 1;  // the last tile may be short: it is counted by itself

  Int128 ends = whole * kv_len;
  if (s.window_right >= 0) {
    const Int128 shift = tile_q - 1 + (Int128{s.diagonal_offset} + s.window_right + 1) * group;
    const Int128 zero = CountUpTo(group - 1, shift, tile_q, whole);
    const Int128 last_whole_tile = kv_len / tile_kv * tile_kv;  // ends beyond round up to kv_len
    const Int128 partial = CountUpTo(last_whole_tile * group + group - 1, shift, tile_q, whole);
    const Int128 offset = zero * tile_q + shift + (tile_kv - 1) * group;
    ends = tile_kv * FloorSum(partial - zero, tile_kv * group, tile_q, offset) + (whole - partial) * kv_len;
  }
  Int128 begins = 0;
  if (s.window_left >= 0) {
    const Int128 shift = (Int128{s.diagonal_offset} - s.window_left) * group;
    const Int128 zero = CountUpTo(group - 1, shift, tile_q, whole);
    // Tiles that begin at kv_len read nothing: they cancel the kv_len of their end.
    const Int128 partial = CountUpTo(kv_len * group - 1, shift, tile_q, whole);
    begins = tile_kv * FloorSum(partial - zero, tile_kv * group, tile_q, zero * tile_q + shift) +
             (whole - partial) * kv_len;
  }
  return ends - begins + Length(KeysRead(s, schedule, static_cast<int64_t>(whole * tile_q), rows - 1));
}

// One (sequence, kv head) pair of a launch, and what it shares the cache with.
struct Pair {
  const Sequence& sequence;
  Schedule schedule;
  int64_t rows;
  int64_t key_bytes;  // of K and V
};

// A GPU runs many query tiles at once, each walking its keys from the last to the first, and starts the next
// where one ends: pair by pair, or level by level of several pairs; in each from the last tile to the first.
// The tiles that begin together are called a wave.
struct Waves {
  int64_t tiles;           // of a pair
  double l2_bytes;         // effective
  double operand_bytes;    // of Q and O, that a wave streams through the cache
  double pairs_per_wave;   // on average
  double splits_per_pair;  // wave boundaries inside a pair, on average
};

// Of bytes that are read again and again, each time after `touched` others like them and `new_bytes` that
// are read or written once, the share that a cache of `cache` bytes has lost by then. What fits is kept.
// Beyond that, a cache that evicts at random loses a line with probability
// 1 - exp(-(lines evicted) / (lines of the cache)), and evicts one for each lost and each new one.
double LostShare(double touched, double new_bytes, double cache) {
  if (touched + new_bytes <= cache) return 0;
  double lost = 1;
  for (double before = 2; before - lost > 1e-3;) {  // falls to the fixed point
    before = lost;
    lost = 1 - std::exp(-(before * touched + new_bytes) / std::max(cache, 1.0));
  }
  return lost;
}

// Keys that the tiles of rows [first, boundary) take from device memory though those of [boundary, last],
// which ran just before them, had read them.
double KeysLostAt(const Pair& pair, const Waves& waves, int64_t first, int64_t boundary, int64_t last) {
  const Sequence& s = pair.sequence;
  const KeyRange before = KeysRead(s, pair.schedule, boundary, last);
  const KeyRange after = KeysRead(s, pair.schedule, first, boundary - 1);
  const int64_t shared = std::min(before.end, after.end) - std::max(before.begin, after.begin);
  if (shared <= 0) return 0;
  // The second wave starts when the shortest walk of the first one ends. In steps of one key: how long after
  // the first wave's last tile it comes to a key. Along a diagonal that may be before that: it reads with it.
  const int64_t shortest_last = std::min(SaturatingAdd(boundary, pair.schedule.tile_q - 1), last);
  const KeyRange shortest = KeysRead(s, pair.schedule, boundary, shortest_last);
  const int64_t delay = Length(shortest) + after.end - before.end;
  if (delay <= 0) return 0;
  // Meanwhile one wave, as wide as its tiles are out of step, goes on towards the first key while the other
  // comes from the last; so do those of other pairs beside them, of which there are more for some keys than
  // for others.
  const auto skew = static_cast<double>(before.end - shortest.end);
  const double touched = std::min(static_cast<double>(shared), 2 * (static_cast<double>(delay) + skew)) *
                         static_cast<double>(pair.key_bytes);
  constexpr int kPoints = 8;
  double share = 0;
  for (int i = 0; i < kPoints; ++i) {
    const double pairs = 1 + 2 * (waves.pairs_per_wave - 1) * (i + 0.5) / kPoints;
    share += LostShare(pairs * touched, waves.operand_bytes, waves.l2_bytes) / kPoints;
  }
  return static_cast<double>(shared) * share;
}

// The sum of KeysLostAt over the boundaries of a pair's waves; sampled where there are many.
double KeysLostBetweenWaves(const Pair& pair, const Waves& waves) {
  constexpr int64_t kSamples = 64;
  const int64_t wave_rows = SaturatingMultiply(waves.tiles, pair.schedule.tile_q);
  const int64_t boundaries = CeilDiv(pair.rows, wave_rows) - 1;
  const int64_t samples = std::min(boundaries, kSamples);
  double lost = 0;
  for (int64_t n = 0; n < samples; ++n) {
    const auto wave = static_cast<int64_t>(Int128{n} * boundaries / samples);  // before the boundary
    const int64_t last = pair.rows - 1 - wave * wave_rows;
    const int64_t boundary = last - wave_rows + 1;
    lost += KeysLostAt(pair, waves, std::max<int64_t>(boundary - wave_rows, 0), boundary, last);
  }
  if (samples > 0) lost *= static_cast<double>(boundaries) / static_cast<double>(samples);
  // Where walks are about equally long, waves keep the launch's rhythm, and cut pairs anywhere. Where they
  // are not, blocks that end one by one let the next pair start afresh.
  const Sequence& s = pair.sequence;
  const int64_t tile_q = pair.schedule.tile_q;
  const int64_t first_walk = Length(KeysRead(s, pair.schedule, 0, std::min(tile_q, pair.rows) - 1));
  const int64_t last_walk =
      Length(KeysRead(s, pair.schedule, (pair.rows - 1) / tile_q * tile_q, pair.rows - 1));
  const bool equal_walks = std::min(first_walk, last_walk) >= std::max(first_walk, last_walk) / 2;
  const double more = waves.splits_per_pair - static_cast<double>(boundaries);
  const int64_t middle = pair.rows / 2 / tile_q * tile_q;
  if (equal_walks && more > 0 && middle > 0) {
    lost += more * KeysLostAt(pair, waves, std::max<int64_t>(middle - wave_rows, 0), middle,
                              std::min(middle + wave_rows, pair.rows) - 1);
  }
  return lost;
}

// Keys that tiles of one wave take from device memory though others of the wave read them: along a diagonal
// each tile is at another key, and all those must fit the cache.
double KeysLostWithinWaves(const Pair& pair, const Waves& waves) {
  const Sequence& s = pair.sequence;
  const Schedule& schedule = pair.schedule;
  const int64_t wave_rows = std::min(SaturatingMultiply(waves.tiles, schedule.tile_q), pair.rows);
  const int64_t first = pair.rows - wave_rows;
  const int64_t first_end =
      KeysRead(s, schedule, first, std::min(SaturatingAdd(first, schedule.tile_q), pair.rows) - 1).end;
  const KeyRange all = KeysRead(s, schedule, first, pair.rows - 1);
  const double skew = static_cast<double>(all.end - first_end) * static_cast<double>(pair.key_bytes);
  // Nor can the tiles of several pairs be at more keys than they have rows.
  const double most = static_cast<double>(waves.tiles) * static_cast<double>(schedule.tile_q) /
                      static_cast<double>(schedule.group) * static_cast<double>(pair.key_bytes);
  const double share = LostShare(std::min(waves.pairs_per_wave * skew, most), 0, waves.l2_bytes);
  if (share == 0) return 0;
  Schedule by_wave = schedule;
  by_wave.tile_q = wave_rows;
  return share * static_cast<double>(KeysReadByAllTiles(s, schedule, pair.rows) -
                                     KeysReadByAllTiles(s, by_wave, pair.rows));
}

Waves WavesOf(const AttentionProblem& p, const Pair& pair, int64_t concurrent_tiles, int64_t launch_tiles,
              int64_t l2_bytes, int64_t walked_bytes) {
  Waves waves{};
  waves.tiles = concurrent_tiles;
  waves.l2_bytes = kEffectiveL2Share * static_cast<double>(l2_bytes);
  const int64_t row_bytes =
      int64_t{p.head_dim_qk} * DTypeSize(p.q.dtype) + int64_t{p.head_dim_v} * DTypeSize(p.o.dtype);
  const int64_t tiles = CeilDiv(pair.rows, pair.schedule.tile_q);
  waves.operand_bytes = static_cast<double>(std::min(concurrent_tiles, launch_tiles)) *
                        static_cast<double>(std::min(pair.schedule.tile_q, pair.rows)) *
                        static_cast<double>(row_bytes);
  // As if the launch were made of pairs like this one: a wave is cut where a pair ends and a pair where a
  // wave ends, unless both end at once.
  const int64_t pairs = std::max<int64_t>(launch_tiles / tiles, 1);
  const int64_t count = CeilDiv(launch_tiles, concurrent_tiles);
  const int64_t together = (pairs - 1) / (concurrent_tiles / std::gcd(concurrent_tiles, tiles));
  const auto parts = static_cast<double>(count + pairs - 1 - together);
  waves.pairs_per_wave = parts / static_cast<double>(count);
  waves.splits_per_pair = parts / static_cast<double>(pairs) - 1;
  const int64_t pair_bytes = SaturatingMultiply(pair.sequence.kv_len, pair.key_bytes);
  const int64_t together_pairs = std::min(walked_bytes / std::max<int64_t>(pair_bytes, 1), pairs);
  if (together_pairs > 1) {
    waves.tiles = CeilDiv(concurrent_tiles, together_pairs);
    waves.pairs_per_wave = static_cast<double>(std::min(together_pairs, concurrent_tiles));
    waves.splits_per_pair = 0;
  }
  return waves;
}

// Tiles of one kv head of `s`.
int64_t TilesOf(const Sequence& s, const Schedule& schedule) {
  return CeilDiv(SaturatingMultiply(s.q_len, schedule.group), schedule.tile_q);
}

Schedule ScheduleOf(const AttentionProblem& p, const Sequence& s, const Plan& plan) {
  const int64_t group = p.num_q_heads / p.num_kv_heads;
  return {group, plan.tile_q > 0 ? plan.tile_q : std::max<int64_t>(SaturatingMultiply(s.q_len, group), 1),
          plan.tile_kv > 0 ? plan.tile_kv : std::max<int64_t>(s.kv_len, 1)};
}

int64_t LaunchTiles(const AttentionProblem& p, const Plan& plan) {
  int64_t tiles = 0;
  for (int64_t n = 0; n < p.num_sequences; ++n) {
    tiles = SaturatingAdd(tiles, TilesOf(p.sequences[n], ScheduleOf(p, p.sequences[n], plan)));
  }
  return SaturatingMultiply(tiles, p.num_kv_heads);
}

// Bytes of K and V that one kv head of one sequence takes from device memory.
int64_t KvBytesOfHead(const AttentionProblem& p, const Sequence& s, const Plan& plan, int64_t l2_bytes,
                      int64_t concurrent_tiles, int64_t launch_tiles, int64_t walked_bytes) {
  if (s.q_len == 0 || s.kv_len == 0) return 0;
  const Pair pair{.sequence = s,
                  .schedule = ScheduleOf(p, s, plan),
                  .rows = SaturatingMultiply(s.q_len, p.num_q_heads / p.num_kv_heads),
                  .key_bytes = (int64_t{p.head_dim_qk} + p.head_dim_v) * DTypeSize(p.k.dtype)};
  const int64_t keys = Length(KeysRead(s, pair.schedule, 0, pair.rows - 1));
  const int64_t once = SaturatingMultiply(keys, pair.key_bytes);
  if (concurrent_tiles <= 1) {
    if (once <= l2_bytes) return once;
    return SaturatingMultiply(SaturateToInt64(KeysReadByAllTiles(s, pair.schedule, pair.rows)),
                              pair.key_bytes);
  }
  const Waves waves = WavesOf(p, pair, concurrent_tiles, launch_tiles, l2_bytes, walked_bytes);
  const double lost = KeysLostBetweenWaves(pair, waves) + KeysLostWithinWaves(pair, waves);
  return SaturatingAdd(once, ToInt64(lost * static_cast<double>(pair.key_bytes)));
}

}  // namespace

int64_t StandardWorkspaceBytes(const AttentionProblem& problem) {
  return SaturatingProduct(SizeOf(problem).scores, int64_t{2}, kFp32Bytes);
}

int64_t StandardHbmBytes(const AttentionProblem& problem) {
  const OperandBytes bytes = OperandBytesOf(problem);
  // S written and read, P written and read.
  const int64_t scores = SaturatingProduct(SizeOf(problem).scores, int64_t{4}, kFp32Bytes);
  int64_t total = scores;
  for (int64_t part : {bytes.q, bytes.kv, bytes.mask, bytes.o, bytes.lse}) total = SaturatingAdd(total, part);
  return total;
}

ModelledTraffic FusedTraffic(const AttentionProblem& problem, const Plan& plan, int64_t l2_bytes,
                             int64_t concurrent_tiles, int64_t walked_bytes) {
  const OperandBytes bytes = OperandBytesOf(problem);
  const int64_t launch_tiles = concurrent_tiles > 1 ? LaunchTiles(problem, plan) : 0;
  int64_t kv = 0;
  for (int64_t n = 0; n < problem.num_sequences; ++n) {
    const int64_t head = KvBytesOfHead(problem, problem.sequences[n], plan, l2_bytes, concurrent_tiles,
                                       launch_tiles, walked_bytes);
    kv = SaturatingAdd(kv, SaturatingMultiply(head, problem.num_kv_heads));
  }
  int64_t partials = 0;
  if (plan.num_splits > 1) {
    partials = SaturatingProduct(SizeOf(problem).q_tokens, int64_t{problem.num_q_heads},
                                 int64_t{plan.num_splits}, int64_t{problem.head_dim_v} + 1, kFp32Bytes);
  }
  return {SaturatingAdd(SaturatingAdd(bytes.q, kv), SaturatingAdd(bytes.mask, partials)),
          SaturatingAdd(SaturatingAdd(bytes.o, bytes.lse), partials)};
}

}  // namespace tessera
