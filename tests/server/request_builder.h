// AttendRequests for tests: a valid one to start from, and the parts to make it another.
#pragma once

#include <cstdint>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "server/payload.h"
#include "tessera/v1/attention.pb.h"

namespace tessera::testing {

template <typename T>
std::string BytesOf(const std::vector<T>& values) {
  return std::string(reinterpret_cast<const char*>(values.data()), values.size() * sizeof(T));
}

inline std::vector<float> RandomFloats(int64_t count, uint32_t seed) {
  std::mt19937 generator(seed);
  std::normal_distribution<float> normal;
  std::vector<float> values(static_cast<size_t>(count));
  for (float& value : values) value = normal(generator);
  return values;
}

// Describes `tensor` and appends its bytes to the request's payload.
inline void SetTensor(v1::AttendRequest& request, v1::Tensor& tensor, v1::DataType dtype,
                      const std::vector<int64_t>& shape, std::string bytes) {
  tensor.set_dtype(dtype);
  tensor.mutable_shape()->Assign(shape.begin(), shape.end());
  tensor.set_raw_index(static_cast<uint32_t>(request.raw_size()));
  request.add_raw(std::move(bytes));
}

inline int64_t CountOf(const std::vector<int64_t>& shape) {
  int64_t count = 1;
  for (const int64_t extent : shape) count *= extent;
  return count;
}

// Random fp32 tensors of these shapes.
inline v1::AttendRequest MakeRequest(v1::Layout layout, const std::vector<int64_t>& q_shape,
                                     const std::vector<int64_t>& k_shape, const std::vector<int64_t>& v_shape,
                                     uint32_t seed = 1) {
  v1::AttendRequest request;
  request.set_id("test");
  request.set_layout(layout);
  SetTensor(request, *request.mutable_q(), v1::DATA_TYPE_FP32, q_shape,
            BytesOf(RandomFloats(CountOf(q_shape), seed)));
  SetTensor(request, *request.mutable_k(), v1::DATA_TYPE_FP32, k_shape,
            BytesOf(RandomFloats(CountOf(k_shape), seed + 1)));
  SetTensor(request, *request.mutable_v(), v1::DATA_TYPE_FP32, v_shape,
            BytesOf(RandomFloats(CountOf(v_shape), seed + 2)));
  return request;
}

// Packed, two sequences: q lengths 3 and 2, kv lengths 4 and 5; 4 query heads over 2 kv heads; dims 8 and 6.
inline v1::AttendRequest MakePackedRequest(uint32_t seed = 1) {
  v1::AttendRequest request = MakeRequest(v1::LAYOUT_PACKED, {5, 4, 8}, {9, 2, 8}, {9, 2, 6}, seed);
  for (const int64_t length : {3, 2}) request.add_q_lens(length);
  for (const int64_t length : {4, 5}) request.add_kv_lens(length);
  return request;
}

// Points into `request`.
inline std::vector<Payload> PayloadOf(const v1::AttendRequest& request) {
  std::vector<Payload> payload;
  for (const std::string& raw : request.raw()) {
    payload.emplace_back().Append(
        {reinterpret_cast<const std::byte*>(raw.data()), static_cast<int64_t>(raw.size())});
  }
  return payload;
}

inline std::vector<float> FloatsOf(const std::string& bytes) {
  std::vector<float> values(bytes.size() / sizeof(float));
  std::memcpy(values.data(), bytes.data(), values.size() * sizeof(float));
  return values;
}

}  // namespace tessera::testing
