#include "server/launch_chunks.h"

#include <algorithm>
#include <cstddef>
#include <limits>

#include "backend/core/dtype.h"
#include "backend/core/saturating.h"

namespace tessera {
namespace {

constexpr int64_t kNowhere = std::numeric_limits<int64_t>::max();

struct Rows {
  int64_t begin, length;
};
Rows RowsOf(const Sequence& sequence, Operand operand) {
  return IsOfKeys(operand) ? Rows{sequence.kv_begin, sequence.kv_len}
                           : Rows{sequence.q_begin, sequence.q_len};
}

// Elements that one head's rows of a sequence span, first to last.
int64_t HeadSpan(const OperandRef& ref, const Rows& rows) {
  return (rows.length - 1) * ref.token_stride + ref.row_elements;
}

std::vector<Operand> WantedOperands(const AttentionProblem& problem) {
  std::vector<Operand> wanted;
  for (const Operand operand : kAllOperands) {
    if (RefOf(problem, operand).wanted) wanted.push_back(operand);
  }
  return wanted;
}

// Marks in `cuts` each sequence before which `operand` can be cut: all rows of those before it lie below all
// rows of it and those after it.
void KeepCutsOf(const AttentionProblem& problem, Operand operand, std::vector<char>& cuts) {
  const OperandRef ref = RefOf(problem, operand);
  const auto n = static_cast<size_t>(problem.num_sequences);
  std::vector<int64_t> lowest_from(n + 1, kNowhere);
  for (size_t s = n; s-- > 0;) {
    const Rows rows = RowsOf(problem.sequences[s], operand);
    lowest_from[s] =
        rows.length == 0 ? lowest_from[s + 1] : std::min(lowest_from[s + 1], rows.begin * ref.token_stride);
  }
  int64_t highest = 0;  // one past
  for (size_t s = 0; s < n; ++s) {
    if (highest > lowest_from[s]) cuts[s] = 0;
    const Rows rows = RowsOf(problem.sequences[s], operand);
    if (rows.length == 0) continue;
    highest = std::max(
        highest, rows.begin * ref.token_stride + (ref.heads - 1) * ref.head_stride + HeadSpan(ref, rows));
  }
}

// Bytes of the rows of one sequence, all operands. More than there is memory where strides are 0.
int64_t BytesOf(const AttentionProblem& problem, const Sequence& sequence,
                const std::vector<Operand>& operands) {
  int64_t bytes = 0;
  for (const Operand operand : operands) {
    const OperandRef ref = RefOf(problem, operand);
    const int64_t rows = RowsOf(sequence, operand).length;
    bytes = SaturatingAdd(bytes, SaturatingProduct(rows, ref.heads, ref.row_elements, ref.element_bytes));
  }
  return bytes;
}

// Whether the rows of each head lie together: all of head h below those of h + 1.
bool IsHeadMajor(const AttentionProblem& problem, const Sequence& sequence,
                 const std::vector<Operand>& operands) {
  return std::all_of(operands.begin(), operands.end(), [&](Operand operand) {
    const OperandRef ref = RefOf(problem, operand);
    const Rows rows = RowsOf(sequence, operand);
    return rows.length == 0 || HeadSpan(ref, rows) <= ref.head_stride;
  });
}

// Offset of the chunk's first row in `operand`, in bytes; kNowhere if it has none there.
int64_t BeginOf(const AttentionProblem& problem, const Chunk& chunk, Operand operand) {
  const OperandRef ref = RefOf(problem, operand);
  int64_t begin = kNowhere;
  for (int64_t s = chunk.first_sequence; s < chunk.first_sequence + chunk.num_sequences; ++s) {
    const Rows rows = RowsOf(problem.sequences[s], operand);
    if (rows.length > 0) begin = std::min(begin, rows.begin * ref.token_stride);
  }
  if (begin == kNowhere) return kNowhere;
  const int64_t first_head = chunk.first_kv_head * (ref.heads / problem.num_kv_heads);
  return (begin + first_head * ref.head_stride) * ref.element_bytes;
}

// A chunk's range begins with its first row, the first one's with the memory, and ends where the next begins.
void FillRanges(const AttentionProblem& problem, std::vector<Chunk>& chunks) {
  for (const Operand operand : WantedOperands(problem)) {
    int64_t end = RefOf(problem, operand).bytes();
    for (size_t c = chunks.size(); c-- > 0;) {
      const int64_t begin = c == 0 ? 0 : std::min(BeginOf(problem, chunks[c], operand), end);
      chunks[c].ranges[operand] = {begin, end};
      end = begin;
    }
  }
}

// Collects sequences into at most `wanted` chunks (one more where a sequence is cut by heads) of about equal
// bytes.
class Splitter {
 public:
  Splitter(const AttentionProblem& problem, int64_t wanted, int64_t min_bytes)
      : problem_(problem), operands_(WantedOperands(problem)), wanted_(wanted), min_bytes_(min_bytes) {}

  std::vector<Chunk> Split() {
    const auto n = static_cast<size_t>(problem_.num_sequences);
    std::vector<char> cuts(n + 1, 1);
    for (const Operand operand : operands_) KeepCutsOf(problem_, operand, cuts);
    std::vector<int64_t> bytes(n + 1, 0);
    for (size_t s = 0; s < n; ++s) {
      bytes[s] = BytesOf(problem_, problem_.sequences[s], operands_);
      left_ = SaturatingAdd(left_, bytes[s]);
    }

    for (size_t s = 0; s < n; ++s) {
      const bool stands_alone = cuts[s] != 0 && cuts[s + 1] != 0;
      if (stands_alone && SplitHeads(static_cast<int64_t>(s), bytes[s])) continue;
      open_bytes_ = SaturatingAdd(open_bytes_, bytes[s]);
      left_ -= bytes[s];
      // Nearer to the target without the next sequence than with it. A last chunk that is hardly one is not
      // worth its launch.
      const bool enough = SaturatingAdd(open_bytes_, bytes[s + 1] / 2) >= Target() && left_ >= min_bytes_ / 2;
      if (enough && cuts[s + 1] != 0) Close(static_cast<int64_t>(s) + 1);
    }
    Close(problem_.num_sequences);
    return std::move(chunks_);
  }

 private:
  // What each chunk that is still to be made should hold.
  int64_t Target() const {
    const int64_t to_make = wanted_ - static_cast<int64_t>(chunks_.size());
    return std::max<int64_t>(SaturatingAdd(open_bytes_, left_) / std::max<int64_t>(to_make, 1), 1);
  }

  // Ends the open chunk before sequence `end`.
  void Close(int64_t end) {
    if (end > first_) {
      chunks_.push_back({.first_sequence = first_,
                         .num_sequences = end - first_,
                         .first_kv_head = 0,
                         .num_kv_heads = problem_.num_kv_heads,
                         .ranges = {}});
    }
    first_ = end;
    open_bytes_ = 0;
  }

  // Makes chunks of the heads of one sequence, if it is large enough and its heads lie apart.
  bool SplitHeads(int64_t sequence, int64_t bytes) {
    const int64_t parts = std::min<int64_t>(bytes / Target(), problem_.num_kv_heads);
    if (parts < 2 || !IsHeadMajor(problem_, problem_.sequences[sequence], operands_)) return false;
    Close(sequence);
    for (int64_t part = 0; part < parts; ++part) {
      const auto begin = static_cast<int32_t>(problem_.num_kv_heads * part / parts);
      const auto end = static_cast<int32_t>(problem_.num_kv_heads * (part + 1) / parts);
      chunks_.push_back({.first_sequence = sequence,
                         .num_sequences = 1,
                         .first_kv_head = begin,
                         .num_kv_heads = end - begin,
                         .ranges = {}});
    }
    first_ = sequence + 1;
    left_ -= bytes;
    return true;
  }

  const AttentionProblem& problem_;
  const std::vector<Operand> operands_;
  const int64_t wanted_, min_bytes_;
  std::vector<Chunk> chunks_;
  int64_t left_ = 0;        // bytes of the sequences not yet looked at
  int64_t first_ = 0;       // sequence of the open chunk
  int64_t open_bytes_ = 0;  // in it
};

void SkipHeads(int64_t heads, tessera_scales& scales) {
  if (scales.data != nullptr) scales.data += heads * scales.head_stride;
}

}  // namespace

Chunk WholeLaunch(const AttentionProblem& problem) {
  std::vector<Chunk> chunks = {{.first_sequence = 0,
                                .num_sequences = problem.num_sequences,
                                .first_kv_head = 0,
                                .num_kv_heads = problem.num_kv_heads,
                                .ranges = {}}};
  FillRanges(problem, chunks);
  return chunks.front();
}

std::vector<Chunk> SplitLaunch(const AttentionProblem& problem, const ChunkLimits& limits) {
  int64_t bytes = 0;
  for (const Operand operand : WantedOperands(problem)) bytes += RefOf(problem, operand).bytes();
  const int64_t wanted = std::min<int64_t>(limits.max_chunks, bytes / limits.min_bytes);
  if (wanted < 2) return {WholeLaunch(problem)};
  std::vector<Chunk> chunks = Splitter(problem, wanted, limits.min_bytes).Split();
  if (chunks.size() < 2) return {WholeLaunch(problem)};
  FillRanges(problem, chunks);
  return chunks;
}

AttentionProblem ProblemOf(const AttentionProblem& problem, const Chunk& chunk,
                           std::vector<Sequence>& sequences) {
  const Sequence* const first = problem.sequences + chunk.first_sequence;
  sequences.assign(first, first + chunk.num_sequences);
  AttentionProblem part = problem;
  part.sequences = sequences.data();
  part.num_sequences = chunk.num_sequences;
  for (tessera_scales* scales : {&part.q_scales, &part.k_scales, &part.v_scales}) {
    if (scales->data != nullptr) scales->data += chunk.first_sequence * scales->sequence_stride;
  }
  if (chunk.num_kv_heads == problem.num_kv_heads) return part;

  const int32_t ratio = problem.num_q_heads / problem.num_kv_heads;
  const int64_t first_q_head = int64_t{chunk.first_kv_head} * ratio;
  part.num_kv_heads = chunk.num_kv_heads;
  part.num_q_heads = chunk.num_kv_heads * ratio;
  for (const Operand operand : WantedOperands(problem)) {
    const OperandRef ref = RefOf(problem, operand);
    const int64_t skipped = (IsOfKeys(operand) ? chunk.first_kv_head : first_q_head) * ref.head_stride;
    // A sequence of no rows has no memory to skip.
    const int64_t offset = std::min(skipped, ref.num_elements);
    SetMemory(part, operand, ref.data + offset * ref.element_bytes, ref.num_elements - offset);
  }
  if (part.alibi_slopes != nullptr) part.alibi_slopes += first_q_head;
  if (part.sinks != nullptr) part.sinks += first_q_head;
  SkipHeads(first_q_head, part.q_scales);
  SkipHeads(chunk.first_kv_head, part.k_scales);
  SkipHeads(chunk.first_kv_head, part.v_scales);
  for (Sequence& sequence : sequences) {
    if (sequence.mask == nullptr) continue;
    sequence.mask = static_cast<const std::byte*>(sequence.mask) +
                    first_q_head * sequence.mask_head_stride * DTypeSize(problem.mask_dtype);
  }
  return part;
}

}  // namespace tessera
