// Bounds-checked little-endian reads, for files that may hold anything.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string_view>

namespace tessera::client {

class ByteReader {
 public:
  explicit ByteReader(std::string_view bytes) : bytes_(bytes) {}

  // `size` bytes at `offset`; nullopt when they do not all lie inside.
  std::optional<std::string_view> Slice(uint64_t offset, uint64_t size) const {
    if (offset > bytes_.size() || size > bytes_.size() - offset) return std::nullopt;
    return bytes_.substr(offset, size);
  }

  template <typename UInt>
  std::optional<UInt> Read(uint64_t offset) const {
    const auto slice = Slice(offset, sizeof(UInt));
    if (!slice) return std::nullopt;
    UInt value = 0;
    for (size_t i = 0; i < sizeof(UInt); ++i) {
      value = static_cast<UInt>(value | static_cast<UInt>(static_cast<uint8_t>((*slice)[i])) << (8 * i));
    }
    return value;
  }

 private:
  std::string_view bytes_;
};

}  // namespace tessera::client
