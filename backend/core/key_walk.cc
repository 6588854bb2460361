#include "backend/core/key_walk.h"

#include <algorithm>
#include <utility>

namespace tessera {
namespace {

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

// Of the tiles t in [0, count), those with t * tile_q + shift <= bound.
Int128 CountUpTo(Int128 bound, Int128 shift, Int128 tile_q, Int128 count) {
  return bound < shift ? 0 : std::min<Int128>((bound - shift) / tile_q + 1, count);
}

}  // namespace

Schedule ScheduleOf(const AttentionProblem& problem, const Sequence& s, const Plan& plan) {
  const int64_t group = problem.num_q_heads / problem.num_kv_heads;
  return {group, plan.tile_q > 0 ? plan.tile_q : std::max<int64_t>(SaturatingMultiply(s.q_len, group), 1),
          plan.tile_kv > 0 ? plan.tile_kv : std::max<int64_t>(s.kv_len, 1)};
}

KeyRange KeysRead(const Sequence& s, const Schedule& schedule, int64_t first, int64_t last) {
  const int64_t begin = VisibleKeys(s, first / schedule.group).begin;
  const int64_t end = VisibleKeys(s, last / schedule.group).end;
  if (end <= begin) return {begin, begin};
  return {RoundDown(begin, schedule.tile_kv), std::min(RoundUp(end, schedule.tile_kv), s.kv_len)};
}

// The keys that tile t reads begin and end at clamp(floor((t * tile_q + shift) / group), 0, kv_len), rounded
// to K/V tiles, for a shift of either end: a FloorSum over the tiles where nothing is clamped, and a constant
// elsewhere.
Int128 KeysReadByAllTiles(const Sequence& s, const Schedule& schedule) {
  const int64_t rows = RowsOf(s, schedule);
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

}  // namespace tessera
