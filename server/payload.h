// The bytes of a request's tensors as the transport brought them, and the one copy that puts them in place.
// Every transport ends here: whatever lies in host memory, in however many pieces, is a Payload.
#pragma once

#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

namespace tessera {

// Bytes that someone else owns.
struct HostSpan {
  const std::byte* data = nullptr;
  int64_t bytes = 0;
};

// One entry of `raw`: spans in order, none of them empty. Whoever made it owns the memory.
class Payload {
 public:
  void Append(const HostSpan& span);
  int64_t bytes() const { return pieces_.empty() ? 0 : pieces_.back().end; }
  // Copies the bytes [begin, begin + bytes), which it has, to `to`.
  void CopyTo(std::byte* to, int64_t begin, int64_t bytes) const;

 private:
  struct Piece {
    const std::byte* data;
    int64_t end;  // of this piece in the payload
  };
  size_t PieceAt(int64_t offset) const;

  std::vector<Piece> pieces_;
};

// What CopyTo makes of a payload: itself, or the rows of a strided (d0, d1, d2) grid one after another.
class TensorSource {
 public:
  // Extents of the grid and the distances of its rows in the payload, all in rows and bytes.
  struct Rows {
    int64_t extents[3];
    int64_t strides[3];
    int64_t row_bytes;
  };

  TensorSource() = default;
  explicit TensorSource(Payload payload) : payload_(std::move(payload)), bytes_(payload_.bytes()) {}

  // From now on the tensor is these rows, which lie in the payload.
  void Rearrange(const Rows& rows);

  // The tensor's bytes [begin, begin + bytes), which it has, as a source of their own.
  TensorSource Part(int64_t begin, int64_t bytes) const;

  int64_t bytes() const { return bytes_; }
  // Copies the tensor's bytes [begin, begin + bytes) to `to`, straight from where they arrived.
  void CopyTo(std::byte* to, int64_t begin, int64_t bytes) const;

 private:
  Payload payload_;
  int64_t begin_ = 0;  // where this starts in the payload, or among the bytes of the rows
  int64_t bytes_ = 0;
  Rows rows_{};  // row_bytes 0: not rearranged
};

}  // namespace tessera
