// The server takes an AttendRequest apart by hand, so as not to copy its payload. On every message, in slices
// of any size, it must do what protobuf's parser does: refuse it, or find the same fields and bytes.
//
// TESSERA_FUZZ_SEED and TESSERA_FUZZ_SECONDS in the environment repeat a run or make it longer.

#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <string>
#include <vector>

#include "google/protobuf/stubs/logging.h"
#include "grpcpp/support/byte_buffer.h"
#include "server/wire_message.h"

namespace tessera {
namespace {

using Random = std::mt19937_64;

int Pick(Random& random, int low, int high) {
  return low + static_cast<int>(random() % static_cast<uint64_t>(high - low + 1));
}

std::string RandomBytes(Random& random, int count) {
  std::string bytes;
  for (int i = 0; i < count; ++i) bytes.push_back(static_cast<char>(random()));
  return bytes;
}

// At times longer than it need be, which parsers accept up to a point.
std::string Varint(Random& random, uint64_t value) {
  std::string bytes;
  while (value >= 0x80) {
    bytes.push_back(static_cast<char>(value | 0x80));
    value >>= 7;
  }
  bytes.push_back(static_cast<char>(value));
  if (random() % 16 != 0) return bytes;
  for (int extra = Pick(random, 1, 10); extra > 0; --extra) {
    bytes.back() = static_cast<char>(bytes.back() | 0x80);
    bytes.push_back(random() % 8 == 0 ? static_cast<char>(random() % 0x80) : '\0');
  }
  return bytes;
}

// Fields of all numbers, known and unknown, and all wire types, those included that there are not.
std::string RandomFields(Random& random, int depth) {
  std::string bytes;
  for (int n = Pick(random, 0, 4); n > 0; --n) {
    const int number = random() % 3 == 0   ? 15
                       : random() % 8 == 0 ? Pick(random, 0, 1 << 20)
                                           : Pick(random, 0, 17);
    int type = random() % 2 == 0 ? 2 : Pick(random, 0, 7);
    if (type == 4 && random() % 4 != 0) type = 2;  // an end of nothing ends every test early
    bytes += Varint(random, static_cast<uint64_t>(number) << 3 | static_cast<uint64_t>(type));
    switch (type) {
      case 0:
        bytes += Varint(random, random() % 2 == 0 ? random() : random() % 300);
        break;
      case 1:
        bytes += RandomBytes(random, 8);
        break;
      case 2: {
        const std::string value = depth > 0 && random() % 2 == 0 ? RandomFields(random, depth - 1)
                                                                 : RandomBytes(random, Pick(random, 0, 150));
        bytes += Varint(random, value.size()) + value;
        break;
      }
      case 3:
        if (depth > 0) bytes += RandomFields(random, depth - 1);
        if (random() % 8 != 0) {
          bytes += Varint(random, static_cast<uint64_t>(number + (random() % 16 == 0 ? 1 : 0)) << 3 | 4u);
        }
        break;
      case 5:
        bytes += RandomBytes(random, 4);
        break;
      default:
        break;
    }
  }
  return bytes;
}

// What a client sends.
std::string RandomRequest(Random& random) {
  v1::AttendRequest request;
  if (random() % 2 == 0) request.set_id("some id");
  if (random() % 3 == 0) request.set_backend("cpu_standard");
  request.set_layout(static_cast<v1::Layout>(Pick(random, 0, 2)));
  for (v1::Tensor* tensor : {request.mutable_q(), request.mutable_k(), request.mutable_v()}) {
    tensor->set_dtype(v1::DATA_TYPE_BF16);
    for (int i = 0; i < 3; ++i) tensor->add_shape(Pick(random, 0, 300));
    tensor->set_raw_index(static_cast<uint32_t>(request.raw_size()));
    request.add_raw(RandomBytes(random, Pick(random, 0, 400)));
  }
  for (int i = Pick(random, 0, 3); i > 0; --i) request.add_q_lens(Pick(random, 0, 500));
  for (int i = Pick(random, 0, 3); i > 0; --i) request.add_q_scales(0.5f);
  if (random() % 2 == 0) request.mutable_options()->set_causal(true);
  return request.SerializeAsString();
}

// As many groups inside each other as parsers allow, or one more.
std::string NestedGroups(Random& random) {
  const int depth = Pick(random, 98, 102);
  std::string bytes;
  for (int i = 0; i < depth; ++i) bytes += "\x7b";  // 15, start
  bytes += RandomFields(random, 0);
  for (int i = 0; i < depth; ++i) bytes += "\x7c";
  return bytes;
}

std::string RandomMessage(Random& random) {
  std::string bytes;
  for (int parts = Pick(random, 1, 3); parts > 0; --parts) {
    switch (random() % 8) {
      case 0:
        bytes += random() % 8 == 0 ? NestedGroups(random) : RandomFields(random, 0);
        break;
      case 1:
      case 2:
      case 3:
        bytes += RandomFields(random, 3);
        break;
      default:
        bytes += RandomRequest(random);  // messages in a row are one
    }
  }
  if (random() % 3 != 0 || bytes.empty()) return bytes;
  for (int n = Pick(random, 1, 3); n > 0 && !bytes.empty(); --n) {
    const size_t at = random() % bytes.size();
    if (random() % 3 == 0) {
      bytes.resize(at);
    } else if (random() % 2 == 0) {
      bytes[at] = static_cast<char>(random());
    } else {
      bytes.insert(at, 1, static_cast<char>(random()));
    }
  }
  return bytes;
}

// `bytes` in slices of any size, empty ones included.
grpc::ByteBuffer InSlices(const std::string& bytes, Random& random) {
  std::vector<grpc::Slice> slices;
  const int most = random() % 3 == 0 ? 3 : 200;
  for (size_t at = 0; at < bytes.size() || slices.empty();) {
    const size_t length = std::min(static_cast<size_t>(Pick(random, 0, most)), bytes.size() - at);
    slices.emplace_back(bytes.data() + at, length);
    at += length;
  }
  return grpc::ByteBuffer(slices.data(), slices.size());
}

std::string BytesOf(const Payload& payload) {
  std::string bytes(static_cast<size_t>(payload.bytes()), '\0');
  payload.CopyTo(reinterpret_cast<std::byte*>(bytes.data()), 0, payload.bytes());
  return bytes;
}

constexpr int64_t kMaxBytes = int64_t{1} << 30;

// Whether it was accepted.
bool ExpectAgreement(bool accepted, v1::AttendRequest& theirs,
                     const absl::StatusOr<std::unique_ptr<WireRequest>>& ours) {
  EXPECT_EQ(ours.ok(), accepted) << ours.status();
  if (!ours.ok() || !accepted) return false;

  const std::vector<Payload> payload = (*ours)->TakePayload();
  EXPECT_EQ(payload.size(), static_cast<size_t>(theirs.raw_size()));
  for (size_t i = 0; i < payload.size() && i < static_cast<size_t>(theirs.raw_size()); ++i) {
    EXPECT_EQ(BytesOf(payload[i]), theirs.raw(static_cast<int>(i)));
  }
  theirs.clear_raw();
  EXPECT_EQ((*ours)->header().SerializeAsString(), theirs.SerializeAsString());
  return true;
}

bool ExpectAgreement(const std::string& bytes, Random& random) {
  v1::AttendRequest theirs;
  const bool accepted = theirs.ParseFromString(bytes);
  return ExpectAgreement(accepted, theirs, WireRequest::Parse(InSlices(bytes, random), kMaxBytes));
}

// In an ExplainRequest, in one or more parts among other fields.
bool ExpectExplainAgreement(const std::string& bytes, Random& random) {
  std::string explain;
  for (size_t at = 0; at < bytes.size() || explain.empty();) {
    if (random() % 4 == 0) explain += "\x10\x05";  // a field that there is not
    const size_t left = bytes.size() - at;
    // Cuts seldom fall between fields, so most messages are of one part.
    const size_t length = random() % 4 != 0 ? left : random() % (left + 1);
    explain += "\x0a" + Varint(random, length) + bytes.substr(at, length);
    at += length;
    if (bytes.empty()) break;
  }
  if (random() % 8 == 0) explain.resize(random() % explain.size());
  v1::ExplainRequest theirs;
  const bool accepted = theirs.ParseFromString(explain) && theirs.has_request();
  return ExpectAgreement(accepted, *theirs.mutable_request(),
                         WireRequest::ParseExplain(InSlices(explain, random), kMaxBytes));
}

TEST(AttendEnvelopeFuzzTest, AgreesWithProtobufOnEveryMessage) {
  const char* seed_text = std::getenv("TESSERA_FUZZ_SEED");
  const uint64_t seed = seed_text != nullptr ? std::stoull(seed_text) : std::random_device{}();
  const char* seconds_text = std::getenv("TESSERA_FUZZ_SECONDS");
  const auto budget = std::chrono::seconds(seconds_text != nullptr ? std::stoi(seconds_text) : 5);
  std::printf("TESSERA_FUZZ_SEED=%llu\n", static_cast<unsigned long long>(seed));

  const google::protobuf::LogSilencer no_parse_errors;
  Random random(seed);
  int64_t runs = 0, accepted = 0;
  const auto end = std::chrono::steady_clock::now() + budget;
  while (std::chrono::steady_clock::now() < end && !testing::Test::HasFailure()) {
    const std::string bytes = RandomMessage(random);
    accepted += ExpectAgreement(bytes, random) ? 1 : 0;
    ++runs;
    // One message deeper than there, which a limit of depth tells apart.
    if (bytes.find("\x7b\x7b\x7b\x7b\x7b\x7b\x7b\x7b") == std::string::npos)
      ExpectExplainAgreement(bytes, random);
  }
  std::printf("%lld messages, %lld accepted\n", static_cast<long long>(runs),
              static_cast<long long>(accepted));
  // Both sides of the gate must have been reached, or the test tests nothing.
  EXPECT_GT(accepted, runs / 10);
  EXPECT_LT(accepted, runs - runs / 10);
}

}  // namespace
}  // namespace tessera
