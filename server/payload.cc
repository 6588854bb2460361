#include "server/payload.h"

#include <algorithm>
#include <cstring>

#ifdef __SSE2__
#include <emmintrin.h>
#endif

namespace tessera {
namespace {

// What is larger leaves the caches before anyone reads it.
constexpr int64_t kStreamedBytes = int64_t{8} << 20;

// As memcpy, past the caches: what is overwritten is not read first, which saves a third of the traffic. (The
// C library does so too, but for single calls of several MiB: payloads come in shorter pieces.) All lines of
// a page are asked for before the first is used: a processor fetches ahead by itself within a page only.
void CopyPastCaches(std::byte* to, const std::byte* from, int64_t bytes) {
#ifdef __SSE2__
  constexpr int64_t kVector = sizeof(__m128i), kLine = 4 * kVector, kPage = 64 * kLine;
  const int64_t head = std::min<int64_t>(-reinterpret_cast<uintptr_t>(to) % kVector, bytes);
  std::memcpy(to, from, static_cast<size_t>(head));
  int64_t at = head, asked = head;
  for (; at + kLine <= bytes; at += kLine) {
    if (at == asked) {
      const int64_t end = std::min(at + kPage, bytes);
      for (; asked < end; asked += kLine) _mm_prefetch(from + asked, _MM_HINT_T0);
    }
    const auto* const source = reinterpret_cast<const __m128i*>(from + at);
    auto* const target = reinterpret_cast<__m128i*>(to + at);
    const __m128i a = _mm_loadu_si128(source), b = _mm_loadu_si128(source + 1);
    const __m128i c = _mm_loadu_si128(source + 2), d = _mm_loadu_si128(source + 3);
    _mm_stream_si128(target, a);
    _mm_stream_si128(target + 1, b);
    _mm_stream_si128(target + 2, c);
    _mm_stream_si128(target + 3, d);
  }
  std::memcpy(to + at, from + at, static_cast<size_t>(bytes - at));
  _mm_sfence();
#else
  std::memcpy(to, from, static_cast<size_t>(bytes));
#endif
}

}  // namespace

void Payload::Append(const HostSpan& span) {
  if (span.bytes > 0) pieces_.push_back({span.data, bytes() + span.bytes});
}

// Index of the piece that holds the byte at `offset`.
size_t Payload::PieceAt(int64_t offset) const {
  const auto at = std::upper_bound(pieces_.begin(), pieces_.end(), offset,
                                   [](int64_t value, const Piece& piece) { return value < piece.end; });
  return static_cast<size_t>(at - pieces_.begin());
}

void Payload::CopyTo(std::byte* to, int64_t begin, int64_t bytes) const {
  if (bytes == 0) return;
  const bool streams = this->bytes() >= kStreamedBytes;
  for (size_t i = PieceAt(begin); bytes > 0; ++i) {
    const int64_t piece_begin = i == 0 ? 0 : pieces_[i - 1].end;
    const int64_t length = std::min(bytes, pieces_[i].end - begin);
    const std::byte* const from = pieces_[i].data + (begin - piece_begin);
    if (streams) {
      CopyPastCaches(to, from, length);
    } else {
      std::memcpy(to, from, static_cast<size_t>(length));
    }
    to += length;
    begin += length;
    bytes -= length;
  }
}

void TensorSource::Rearrange(const Rows& rows) {
  rows_ = rows;
  bytes_ = rows.extents[0] * rows.extents[1] * rows.extents[2] * rows.row_bytes;
}

TensorSource TensorSource::Part(int64_t begin, int64_t bytes) const {
  TensorSource part = *this;
  part.begin_ += begin;
  part.bytes_ = bytes;
  return part;
}

void TensorSource::CopyTo(std::byte* to, int64_t begin, int64_t bytes) const {
  begin += begin_;
  if (rows_.row_bytes == 0) return payload_.CopyTo(to, begin, bytes);
  while (bytes > 0) {
    const int64_t row = begin / rows_.row_bytes, in_row = begin % rows_.row_bytes;
    const int64_t k = row % rows_.extents[2];
    const int64_t j = row / rows_.extents[2] % rows_.extents[1];
    const int64_t i = row / rows_.extents[2] / rows_.extents[1];
    const int64_t from = i * rows_.strides[0] + j * rows_.strides[1] + k * rows_.strides[2] + in_row;
    const int64_t length = std::min(bytes, rows_.row_bytes - in_row);
    payload_.CopyTo(to, from, length);
    to += length;
    begin += length;
    bytes -= length;
  }
}

}  // namespace tessera
