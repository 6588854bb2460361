// Random damage to valid requests, from single bits to wild field values: whatever arrives, the server's path
// from bytes to a checked problem answers OK or an error. What it accepts is then run on tightly sized
// buffers, so that under ASan an address that Validate() should have refused is seen.
//
// TESSERA_FUZZ_SEED and TESSERA_FUZZ_SECONDS in the environment repeat a run or make it longer.

#include <gtest/gtest.h>

#include <chrono>
#include <cstdlib>
#include <limits>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "backend/core/backend.h"
#include "backend/core/device.h"
#include "backend/core/registry.h"
#include "backend/cpu/cpu_backends.h"
#include "google/protobuf/descriptor.h"
#include "google/protobuf/message.h"
#include "google/protobuf/stubs/logging.h"
#include "grpcpp/support/byte_buffer.h"
#include "server/request_codec.h"
#include "server/wire_message.h"

namespace tessera {
namespace {

using Random = std::mt19937_64;

int64_t Pick(Random& random, int64_t low, int64_t high) {
  return std::uniform_int_distribution<int64_t>(low, high)(random);
}

// Small on the whole, at times at the edges of its type.
int64_t InterestingInteger(Random& random) {
  static constexpr int64_t kEdges[] = {0,
                                       1,
                                       -1,
                                       7,
                                       8,
                                       std::numeric_limits<int32_t>::max(),
                                       int64_t{1} << 40,
                                       int64_t{1} << 62,
                                       std::numeric_limits<int64_t>::max(),
                                       std::numeric_limits<int64_t>::min()};
  return random() % 4 == 0 ? kEdges[random() % std::size(kEdges)] : Pick(random, -2, 12);
}

float InterestingFloat(Random& random) {
  static constexpr float kEdges[] = {0.0f,
                                     -0.0f,
                                     -1.0f,
                                     1e38f,
                                     std::numeric_limits<float>::quiet_NaN(),
                                     std::numeric_limits<float>::infinity(),
                                     -std::numeric_limits<float>::infinity()};
  return random() % 3 == 0 ? kEdges[random() % std::size(kEdges)]
                           : std::normal_distribution<float>(0, 3)(random);
}

// A small request, valid but for chance, with random options.
v1::AttendRequest RandomRequest(Random& random) {
  v1::AttendRequest request;
  const int64_t batch = Pick(random, 1, 3), q_tokens = Pick(random, 0, 9), kv_tokens = Pick(random, 0, 9);
  const int64_t kv_heads = Pick(random, 1, 2), q_heads = kv_heads * Pick(random, 1, 2);
  const int64_t dim_qk = Pick(random, 1, 9), dim_v = Pick(random, 1, 9);
  const auto layout = static_cast<v1::Layout>(Pick(random, 0, 2));
  request.set_layout(layout);
  static constexpr std::pair<v1::DataType, int64_t> kTypes[] = {
      {v1::DATA_TYPE_FP32, 4}, {v1::DATA_TYPE_FP16, 2}, {v1::DATA_TYPE_BF16, 2}, {v1::DATA_TYPE_FP8_E4M3, 1}};
  const auto [dtype, element] = kTypes[random() % std::size(kTypes)];
  const auto fill = [&](v1::Tensor& tensor, v1::DataType type, int64_t bytes_each,
                        std::vector<int64_t> shape) {
    tensor.set_dtype(type);
    tensor.mutable_shape()->Assign(shape.begin(), shape.end());
    tensor.set_raw_index(static_cast<uint32_t>(request.raw_size()));
    int64_t bytes = bytes_each;
    for (const int64_t extent : shape) bytes *= extent;
    std::string& raw = *request.add_raw();
    for (int64_t i = 0; i < bytes; ++i) raw.push_back(static_cast<char>(random()));
  };
  const auto shape = [&](int64_t tokens, int64_t heads, int64_t dim) -> std::vector<int64_t> {
    if (layout == v1::LAYOUT_PACKED) return {tokens, heads, dim};
    if (layout == v1::LAYOUT_BSHD) return {batch, tokens, heads, dim};
    return {batch, heads, tokens, dim};
  };
  fill(*request.mutable_q(), dtype, element, shape(q_tokens, q_heads, dim_qk));
  fill(*request.mutable_k(), dtype, element, shape(kv_tokens, kv_heads, dim_qk));
  fill(*request.mutable_v(), dtype, element, shape(kv_tokens, kv_heads, dim_v));
  if (dtype == v1::DATA_TYPE_FP8_E4M3) {
    const int64_t sequences = layout == v1::LAYOUT_PACKED ? 1 : batch;
    const auto scale = [&](google::protobuf::RepeatedField<float>& scales, int64_t heads) {
      const int64_t counts[] = {0, 1, heads, heads * sequences};
      for (int64_t i = counts[random() % std::size(counts)]; i > 0; --i)
        scales.Add(random() % 8 == 0 ? InterestingFloat(random) : 0.01f);
    };
    scale(*request.mutable_q_scales(), q_heads);
    scale(*request.mutable_k_scales(), kv_heads);
    scale(*request.mutable_v_scales(), kv_heads);
  }
  auto& options = *request.mutable_options();
  if (random() % 2 == 0) options.set_causal(true);
  if (random() % 3 == 0) options.set_window_left(Pick(random, 0, 5));
  if (random() % 4 == 0) options.set_softcap(10);
  if (random() % 4 == 0) {
    for (int64_t h = 0; h < q_heads; ++h) options.add_sinks(InterestingFloat(random));
  }
  if (random() % 3 == 0) {
    const bool boolean = random() % 2 == 0;
    fill(*request.add_masks(), boolean ? v1::DATA_TYPE_BOOL : v1::DATA_TYPE_FP32, boolean ? 1 : 4,
         {random() % 2 == 0 ? q_heads : 1, q_tokens, kv_tokens});
  }
  request.add_outputs();
  if (random() % 2 == 0) request.add_outputs()->set_kind(v1::OUTPUT_KIND_LSE);
  return request;
}

// Changes one field somewhere in the message (but not the payload's bytes, which mean nothing to a parser).
void MutateField(google::protobuf::Message& message, Random& random) {
  using google::protobuf::FieldDescriptor;
  const auto& reflection = *message.GetReflection();
  const auto& field = *message.GetDescriptor()->field(
      static_cast<int>(random() % static_cast<uint64_t>(message.GetDescriptor()->field_count())));
  if (field.cpp_type() == FieldDescriptor::CPPTYPE_MESSAGE) {
    if (!field.is_repeated()) return MutateField(*reflection.MutableMessage(&message, &field), random);
    const int size = reflection.FieldSize(message, &field);
    if (size == 0 || random() % 8 == 0) return MutateField(*reflection.AddMessage(&message, &field), random);
    return MutateField(
        *reflection.MutableRepeatedMessage(&message, &field, static_cast<int>(random() % size)), random);
  }
  if (random() % 6 == 0) return reflection.ClearField(&message, &field);
  const int size = field.is_repeated() ? reflection.FieldSize(message, &field) : 0;
  const bool set = size > 0 && random() % 3 != 0;
  const int index = size > 0 ? static_cast<int>(random() % static_cast<uint64_t>(size)) : 0;
  const auto put = [&](auto set_one, auto set_repeated, auto add, auto value) {
    if (!field.is_repeated()) return (reflection.*set_one)(&message, &field, value);
    if (set) return (reflection.*set_repeated)(&message, &field, index, value);
    return (reflection.*add)(&message, &field, value);
  };
  using Reflection = google::protobuf::Reflection;
  switch (field.cpp_type()) {
    case FieldDescriptor::CPPTYPE_INT64:
      return put(&Reflection::SetInt64, &Reflection::SetRepeatedInt64, &Reflection::AddInt64,
                 InterestingInteger(random));
    case FieldDescriptor::CPPTYPE_UINT32:
      return put(&Reflection::SetUInt32, &Reflection::SetRepeatedUInt32, &Reflection::AddUInt32,
                 static_cast<uint32_t>(InterestingInteger(random)));
    case FieldDescriptor::CPPTYPE_UINT64:
      return put(&Reflection::SetUInt64, &Reflection::SetRepeatedUInt64, &Reflection::AddUInt64,
                 static_cast<uint64_t>(InterestingInteger(random)));
    case FieldDescriptor::CPPTYPE_FLOAT:
      return put(&Reflection::SetFloat, &Reflection::SetRepeatedFloat, &Reflection::AddFloat,
                 InterestingFloat(random));
    case FieldDescriptor::CPPTYPE_BOOL:
      return put(&Reflection::SetBool, &Reflection::SetRepeatedBool, &Reflection::AddBool, random() % 2 == 0);
    case FieldDescriptor::CPPTYPE_ENUM:
      return put(&Reflection::SetEnumValue, &Reflection::SetRepeatedEnumValue, &Reflection::AddEnumValue,
                 static_cast<int>(Pick(random, -1, 7)));
    case FieldDescriptor::CPPTYPE_STRING:
      return put(&Reflection::SetString, &Reflection::SetRepeatedString, &Reflection::AddString,
                 std::string(static_cast<size_t>(Pick(random, 0, 200)), 'x'));
    default:
      return;
  }
}

void MutateBytes(std::string& bytes, Random& random) {
  if (bytes.empty()) return;
  const size_t at = random() % bytes.size();
  switch (random() % 4) {
    case 0:
      bytes[at] = static_cast<char>(bytes[at] ^ (1 << (random() % 8)));
      break;
    case 1:
      bytes[at] = static_cast<char>(random());
      break;
    case 2:
      bytes.resize(at);
      break;
    default:
      bytes.insert(at, 1, static_cast<char>(random()));
  }
}

class Target {
 public:
  Target() {
    const auto device = RegisterCpuBackends({.num_threads = 1, .isa = std::nullopt}, registry_);
    EXPECT_TRUE(device.ok()) << device.status();
    stream_ = *Stream::Create(**device);
  }

  // True when the request was accepted and run.
  bool Run(const std::string& bytes) {
    grpc::Slice slice(bytes);
    const grpc::ByteBuffer buffer(&slice, 1);
    auto wire = WireRequest::Parse(buffer, int64_t{1} << 20);
    if (!wire.ok()) return false;
    auto shapes = DecodeRequest((*wire)->header(), {}, DataRequirement::kShapesOnly);
    if (shapes.ok() && Validate(shapes->problem, DataRequirement::kShapesOnly).ok()) {
      for (const Backend* backend : registry_.backends()) {
        if (!backend->Supports(shapes->problem).ok()) continue;
        const auto plan = backend->MakePlan(shapes->problem);
        if (plan.ok()) (void)backend->ModelTraffic(*plan, shapes->problem);
      }
    }
    auto request = DecodeRequest((*wire)->header(), (*wire)->TakePayload(), DataRequirement::kRequired);
    if (!request.ok()) return false;
    if (SizeOf(request->problem).scores > 1 << 16 || request->output_bytes > 1 << 20) return false;
    const auto inputs = BindInputs(*request);
    const auto outputs = BindOutputs(*request);
    if (!Validate(request->problem).ok()) return false;
    const auto backend = registry_.Resolve("auto", request->problem);
    if (!backend.ok()) return false;
    const auto plan = (*backend)->MakePlan(request->problem);
    if (!plan.ok()) return false;
    auto workspace = DeviceBuffer::Create((*backend)->device(), TESSERA_MEMORY_DEVICE,
                                          static_cast<size_t>(plan->workspace_bytes));
    return workspace.ok() &&
           (*backend)->Enqueue(*plan, request->problem, workspace->data(), stream_.get()).ok();
  }

 private:
  BackendRegistry registry_;
  Stream stream_;
};

TEST(AttendRequestFuzzTest, SurvivesDamagedRequests) {
  const char* seed_text = std::getenv("TESSERA_FUZZ_SEED");
  const uint64_t seed = seed_text != nullptr ? std::stoull(seed_text) : std::random_device{}();
  const char* seconds_text = std::getenv("TESSERA_FUZZ_SECONDS");
  const auto budget = std::chrono::seconds(seconds_text != nullptr ? std::stoi(seconds_text) : 5);
  std::printf("TESSERA_FUZZ_SEED=%llu\n", static_cast<unsigned long long>(seed));

  const google::protobuf::LogSilencer no_parse_errors;
  Random random(seed);
  Target target;
  int64_t runs = 0, accepted = 0;
  const auto end = std::chrono::steady_clock::now() + budget;
  while (std::chrono::steady_clock::now() < end) {
    v1::AttendRequest request = RandomRequest(random);
    for (uint64_t n = random() % 4; n > 0; --n) MutateField(request, random);
    std::string bytes = request.SerializeAsString();
    if (random() % 3 == 0) {
      for (uint64_t n = 1 + random() % 4; n > 0; --n) MutateBytes(bytes, random);
    }
    accepted += target.Run(bytes) ? 1 : 0;
    ++runs;
  }
  std::printf("%lld requests, %lld accepted and run\n", static_cast<long long>(runs),
              static_cast<long long>(accepted));
  // Both sides of the gate must have been reached, or the test tests nothing.
  EXPECT_GT(accepted, runs / 50);
  EXPECT_LT(accepted, runs);
}

}  // namespace
}  // namespace tessera
