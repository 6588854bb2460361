#include "backend/core/launch_order.h"

#include <algorithm>

#include "backend/core/saturating.h"

namespace tessera {
namespace {

int64_t LongestWalk(const Sequence& s) {
  return std::max(Length(VisibleKeys(s, 0)), Length(VisibleKeys(s, s.q_len - 1)));
}

}  // namespace

LaunchOrder::LaunchOrder(const AttentionProblem& problem, const Plan& plan, int64_t walked_bytes)
    : problem_(problem), plan_(plan), walked_bytes_(walked_bytes) {
  for (int64_t n = 0; n < problem.num_sequences; ++n) {
    const Sequence& s = problem.sequences[n];
    if (s.q_len == 0) continue;
    const int64_t tiles = RowTilesOf(s, ScheduleOf(problem, s, plan));
    order_.push_back({n, LongestWalk(s), tiles});
    num_tiles_ = SaturatingAdd(num_tiles_, SaturatingMultiply(tiles, problem.num_kv_heads));
  }
  std::stable_sort(order_.begin(), order_.end(),
                   [](const Entry& a, const Entry& b) { return a.longest_walk > b.longest_walk; });
}

bool LaunchOrder::NextRun() {
  run_begin_ = run_end_;
  if (run_begin_ == order_.size()) return false;
  int64_t kv_len = 0;
  for (; run_end_ < order_.size() && order_[run_end_].tiles == order_[run_begin_].tiles; ++run_end_) {
    kv_len = std::max(kv_len, problem_.sequences[order_[run_end_].sequence].kv_len);
  }
  run_pairs_ = SaturatingMultiply(static_cast<int64_t>(run_end_ - run_begin_), problem_.num_kv_heads);
  const int64_t pair_bytes = std::max<int64_t>(SaturatingMultiply(kv_len, KeyBytes(problem_)), 1);
  const int64_t fit = std::clamp<int64_t>(walked_bytes_ / pair_bytes, 1, run_pairs_);
  group_pairs_ = CeilDiv(run_pairs_, CeilDiv(run_pairs_, fit));
  group_begin_ = group_end_ = 0;
  return true;
}

bool LaunchOrder::NextGroup() {
  if (group_end_ == run_pairs_ && !NextRun()) return false;
  group_begin_ = group_end_;
  group_end_ = std::min(SaturatingAdd(group_begin_, group_pairs_), run_pairs_);
  pair_ = group_begin_;
  tile_ = order_[run_begin_].tiles - 1;
  return true;
}

bool LaunchOrder::Next(RowTile* tile) {
  if (pair_ == group_end_) {
    if (tile_ > 0) {
      pair_ = group_begin_;
      --tile_;
    } else if (!NextGroup()) {
      return false;
    }
  }
  const int64_t number = order_[run_begin_ + static_cast<size_t>(pair_ / problem_.num_kv_heads)].sequence;
  const Sequence& s = problem_.sequences[number];
  const Schedule schedule = ScheduleOf(problem_, s, plan_);
  const int64_t first_row = tile_ * schedule.tile_q, last_of_pair = RowsOf(s, schedule) - 1;
  tile->pair = number * problem_.num_kv_heads + pair_ % problem_.num_kv_heads;
  tile->of_pair = KeysRead(s, schedule, 0, last_of_pair);
  tile->keys = KeysRead(s, schedule, first_row, std::min(first_row + schedule.tile_q - 1, last_of_pair));
  ++pair_;
  return true;
}

}  // namespace tessera
