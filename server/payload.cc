#include "server/payload.h"

#include <algorithm>
#include <cstring>

namespace tessera {

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
  for (size_t i = PieceAt(begin); bytes > 0; ++i) {
    const int64_t piece_begin = i == 0 ? 0 : pieces_[i - 1].end;
    const int64_t length = std::min(bytes, pieces_[i].end - begin);
    std::memcpy(to, pieces_[i].data + (begin - piece_begin), static_cast<size_t>(length));
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
