#include "backend/core/output_overlap.h"

#include <algorithm>
#include <iterator>
#include <map>
#include <vector>

namespace tessera {
namespace {

using Overlap = std::pair<int64_t, int64_t>;

// Memory written by a sequence, folded into lines of head_stride elements: columns [column_begin, column_end)
// of lines [line_begin, line_end). Column and line are elements and heads in the tokens-inside-heads layout.
struct Rectangle {
  int64_t line_begin, line_end;
  int64_t column_begin, column_end;
  int64_t sequence;
};

// Sweeps over the lines with the columns of the rectangles that are open there: as long as none overlap,
// those are disjoint intervals, and a new one need only be held against its neighbours.
std::optional<Overlap> FindOverlap(const std::vector<Rectangle>& rectangles) {
  struct Edge {
    int64_t line;
    bool opens;
    const Rectangle* rectangle;
  };
  std::vector<Edge> edges;
  edges.reserve(2 * rectangles.size());
  for (const Rectangle& r : rectangles) {
    edges.push_back({r.line_begin, true, &r});
    edges.push_back({r.line_end, false, &r});
  }
  // Of one line, closing edges come first: ends are exclusive.
  std::sort(edges.begin(), edges.end(), [](const Edge& a, const Edge& b) {
    return a.line != b.line ? a.line < b.line : a.opens < b.opens;
  });

  std::map<int64_t, const Rectangle*> open;  // by column_begin
  for (const Edge& edge : edges) {
    const Rectangle& r = *edge.rectangle;
    if (!edge.opens) {
      open.erase(r.column_begin);
      continue;
    }
    const auto next = open.lower_bound(r.column_begin);
    const Rectangle* hit = nullptr;
    if (next != open.end() && next->second->column_begin < r.column_end) hit = next->second;
    if (next != open.begin() && std::prev(next)->second->column_end > r.column_begin) {
      hit = std::prev(next)->second;
    }
    if (hit != nullptr) return std::minmax({hit->sequence, r.sequence});
    open.emplace_hint(next, r.column_begin, &r);
  }
  return std::nullopt;
}

// Heads inside tokens: token t owns [t * token_stride, (t + 1) * token_stride), so tokens decide alone.
std::optional<Overlap> OverlapOfTokens(const tessera_sequence* sequences, int64_t num_sequences) {
  bool ascending = true;
  int64_t end = 0;
  for (int64_t n = 0; n < num_sequences && ascending; ++n) {
    if (sequences[n].q_len == 0) continue;
    ascending = sequences[n].q_begin >= end;
    end = sequences[n].q_begin + sequences[n].q_len;
  }
  if (ascending) return std::nullopt;  // the usual packed or padded batch

  std::vector<Rectangle> rectangles;
  for (int64_t n = 0; n < num_sequences; ++n) {
    const tessera_sequence& s = sequences[n];
    if (s.q_len > 0) rectangles.push_back({0, 1, s.q_begin, s.q_begin + s.q_len, n});
  }
  return FindOverlap(rectangles);
}

// Tokens inside heads: a sequence writes a run of at most head_stride elements for each head.
std::optional<Overlap> OverlapOfRuns(const OutputLayout& layout, const tessera_sequence* sequences,
                                     int64_t num_sequences) {
  std::vector<Rectangle> rectangles;
  for (int64_t n = 0; n < num_sequences; ++n) {
    const tessera_sequence& s = sequences[n];
    if (s.q_len == 0) continue;
    const int64_t first = s.q_begin * layout.token_stride;
    const int64_t run = (s.q_len - 1) * layout.token_stride + layout.row_elements;
    if (layout.heads == 1) {
      rectangles.push_back({0, 1, first, first + run, n});
      continue;
    }
    const int64_t line = first / layout.head_stride;
    const int64_t column = first % layout.head_stride;
    const int64_t column_end = column + run;
    rectangles.push_back({line, line + layout.heads, column, std::min(column_end, layout.head_stride), n});
    if (column_end > layout.head_stride) {  // the run goes on in the next line
      rectangles.push_back({line + 1, line + 1 + layout.heads, 0, column_end - layout.head_stride, n});
    }
  }
  return FindOverlap(rectangles);
}

}  // namespace

std::optional<Overlap> FindOutputOverlap(const OutputLayout& layout, const tessera_sequence* sequences,
                                         int64_t num_sequences) {
  int64_t longest = 0, longest_sequence = 0;
  for (int64_t n = 0; n < num_sequences; ++n) {
    if (sequences[n].q_len <= longest) continue;
    longest = sequences[n].q_len;
    longest_sequence = n;
  }
  if (longest == 0) return std::nullopt;
  const Overlap within{longest_sequence, longest_sequence};

  const bool several_heads = layout.heads > 1;
  if (several_heads && layout.head_stride < layout.row_elements) return within;
  if (layout.token_stride >= (layout.heads - 1) * layout.head_stride + layout.row_elements) {
    return OverlapOfTokens(sequences, num_sequences);
  }
  if (longest > 1 && layout.token_stride < layout.row_elements) return within;
  const int64_t longest_run = (longest - 1) * layout.token_stride + layout.row_elements;
  if (several_heads && layout.head_stride < longest_run) return within;
  return OverlapOfRuns(layout, sequences, num_sequences);
}

}  // namespace tessera
