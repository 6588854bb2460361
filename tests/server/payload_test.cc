#include "server/payload.h"

#include <array>
#include <cstring>
#include <numeric>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "server/host_buffer.h"
#include "server/output_memory.h"
#include "server/wire_message.h"
#include "tests/backend/fake_device.h"

namespace tessera {
namespace {

using testing::FakeDevice;

// 0, 1, 2, ... in pieces of these lengths.
struct InPieces {
  explicit InPieces(const std::vector<int>& lengths) {
    uint8_t next = 0;
    for (const int length : lengths) {
      std::string& piece = pieces.emplace_back(static_cast<size_t>(length), '\0');
      std::iota(piece.begin(), piece.end(), static_cast<char>(next));
      next = static_cast<uint8_t>(next + length);
    }
    for (const std::string& piece : pieces) {
      payload.Append({reinterpret_cast<const std::byte*>(piece.data()), static_cast<int64_t>(piece.size())});
    }
  }

  std::vector<std::string> pieces;
  Payload payload;
};

template <typename Source>
std::vector<int> Copied(const Source& source, int64_t begin, int64_t bytes) {
  std::vector<std::byte> to(static_cast<size_t>(bytes));
  source.CopyTo(to.data(), begin, bytes);
  std::vector<int> values;
  for (const std::byte byte : to) values.push_back(static_cast<int>(byte));
  return values;
}

std::vector<int> Numbers(int begin, int count) {
  std::vector<int> values(static_cast<size_t>(count));
  std::iota(values.begin(), values.end(), begin);
  return values;
}

TEST(PayloadTest, CopiesAnyRangeOfItsPieces) {
  const InPieces in({3, 0, 1, 7, 20});
  ASSERT_EQ(in.payload.bytes(), 31);
  for (int begin = 0; begin <= 31; ++begin) {
    for (int bytes = 0; begin + bytes <= 31; ++bytes) {
      EXPECT_EQ(Copied(in.payload, begin, bytes), Numbers(begin, bytes)) << begin << " " << bytes;
    }
  }
}

TEST(PayloadTest, CopiesLargePayloadsOfShortPieces) {
  const InPieces in(std::vector<int>(2000, 4999));  // 9.5 MiB, copied past the caches
  std::vector<std::byte> to(static_cast<size_t>(in.payload.bytes()) + 16);
  for (const auto& [begin, bytes, shift] :
       {std::array<int64_t, 3>{0, 2000 * 4999, 0}, {4990, 10017, 3}, {1, 5, 1}}) {
    std::byte* const at = to.data() + shift;
    in.payload.CopyTo(at, begin, bytes);
    int64_t wrong = 0;
    for (int64_t i = 0; i < bytes; ++i) wrong += at[i] != static_cast<std::byte>(begin + i);
    EXPECT_EQ(wrong, 0) << begin << " " << bytes;
  }
}

TEST(PayloadTest, IsNothingWithoutPieces) {
  EXPECT_EQ(Payload().bytes(), 0);
  EXPECT_TRUE(Copied(Payload(), 0, 0).empty());
}

TEST(TensorSourceTest, GathersRowsInAnyRange) {
  // (2, 2, 2) rows of 3 bytes, the first two dimensions exchanged and each row followed by a byte of
  // nobody's.
  InPieces in({5, 2, 9, 16});
  TensorSource source(in.payload);
  source.Rearrange({.extents = {2, 2, 2}, .strides = {8, 16, 4}, .row_bytes = 3});
  std::vector<int> all;
  for (const int row : {0, 4, 16, 20, 8, 12, 24, 28}) {
    for (int i = 0; i < 3; ++i) all.push_back(row + i);
  }
  ASSERT_EQ(source.bytes(), 24);
  for (int begin = 0; begin <= 24; ++begin) {
    for (int bytes = 0; begin + bytes <= 24; ++bytes) {
      EXPECT_EQ(Copied(source, begin, bytes),
                std::vector<int>(all.begin() + begin, all.begin() + begin + bytes));
    }
  }
}

TEST(HostBufferTest, IsAlignedAndRecycled) {
  for (const int64_t bytes : {int64_t{0}, int64_t{1}, int64_t{1000}, int64_t{1} << 20, int64_t{5} << 20}) {
    const HostBuffer buffer(bytes);
    EXPECT_EQ(buffer.bytes(), bytes);
    EXPECT_EQ(reinterpret_cast<uintptr_t>(buffer.data()) % 64, 0u);
    std::memset(buffer.data(), 1, static_cast<size_t>(bytes));
    EXPECT_GE(HostBuffer::CapacityFor(bytes), bytes);
    EXPECT_LE(HostBuffer::CapacityFor(bytes), bytes + bytes / 4 + 1);
  }
#if !defined(__SANITIZE_ADDRESS__)
  const std::byte* first = HostBuffer(int64_t{3} << 20).data();
  EXPECT_EQ(HostBuffer(int64_t{3} << 20).data(), first);
#endif
}

TEST(OutputMemoryTest, RecyclesPinnedMemoryOnceNobodyHoldsIt) {
  FakeDevice device({.host_accessible = false});
  {
    OutputMemory memory(device);
    auto first = memory.Allocate(1000);
    ASSERT_TRUE(first.ok()) << first.status();
    OutputBytes output(*first, 100, 200);
    const std::byte* const block = first->get();
    EXPECT_EQ(output.data(), block + 100);
    first->reset();
    EXPECT_EQ(memory.idle_bytes(), 0) << "the output holds it";
    output = OutputBytes(nullptr, 0, 0);
    EXPECT_GE(memory.idle_bytes(), 1000);
    EXPECT_EQ(memory.Allocate(1000)->get(), block);
    EXPECT_EQ(device.counts().allocations, 1);
    memory.ReleaseIdle();
    EXPECT_EQ(device.counts().live_allocations, 0);
    (void)memory.Allocate(1000);
  }
  EXPECT_EQ(device.counts().live_allocations, 0);
}

TEST(OutputMemoryTest, TakesNothingOfADeviceThatSeesTheHosts) {
  FakeDevice device;
  OutputMemory memory(device);
  EXPECT_TRUE(memory.Allocate(1 << 20).ok());
  EXPECT_EQ(device.counts().allocations, 0);
}

TEST(OutputMemoryTest, SaysWhenThereIsNone) {
  FakeDevice device({.memory_bytes = 100, .host_accessible = false});
  OutputMemory memory(device);
  EXPECT_EQ(memory.Allocate(1000).status().code(), absl::StatusCode::kResourceExhausted);
}

TEST(SerializeReplyTest, SharesTheOutputs) {
  v1::AttendResponse header;
  header.set_id("shared");
  const auto memory = Share(HostBuffer(4096));
  std::memset(memory.get(), 7, 4096);
  grpc::ByteBuffer reply =
      SerializeReply(header, {{memory, 0, 1024}, {memory, 1024, 0}, {memory, 1024, 3072}});
  std::vector<grpc::Slice> slices;
  ASSERT_TRUE(reply.Dump(&slices).ok());
  int shared = 0;
  for (const grpc::Slice& slice : slices) {
    const auto* const data = reinterpret_cast<const std::byte*>(slice.begin());
    shared += data == memory.get() || data == memory.get() + 1024 ? 1 : 0;
  }
  EXPECT_EQ(shared, 2);
  v1::AttendResponse parsed;
  ASSERT_TRUE(ParseMessage(reply, 1 << 20, parsed).ok());
  ASSERT_EQ(parsed.raw_size(), 3);
  EXPECT_EQ(parsed.raw(1), "");
  EXPECT_EQ(std::memcmp(parsed.raw(2).data(), memory.get() + 1024, 3072), 0);
}

}  // namespace
}  // namespace tessera
