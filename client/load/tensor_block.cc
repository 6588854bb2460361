#include "client/load/tensor_block.h"

#include <utility>
#include <vector>

#include "client/cli/numbers.h"
#include "client/fp8.h"

namespace tessera::load {
namespace {

constexpr int64_t kSpread = 1 << 18;  // elements to begin at
constexpr int64_t kAlignment = 64;

}  // namespace

TensorBlock::TensorBlock(client::DType dtype, int64_t largest, client::Random& random) {
  const int64_t count = largest + kSpread;
  std::vector<float> values(static_cast<size_t>(count));
  for (float& value : values) value = random.Normal();
  if (dtype != v1::DATA_TYPE_FP8_E4M3) {
    tensor_ = client::FromFloats(values, dtype, {count});
    return;
  }
  // One head: one scale for all. Fp32 of rank 3 cannot be refused.
  auto fp8 =
      client::QuantizeFp8(client::FromFloats(values, v1::DATA_TYPE_FP32, {count, 1, 1}), v1::LAYOUT_PACKED);
  tensor_ = std::move(fp8->tensor);
  scale_ = fp8->scales.front();
}

client::TensorView TensorBlock::Cut(std::vector<int64_t> shape, client::Random& random) const {
  const int64_t bytes = *client::ByteSize(tensor_.dtype, shape);
  const int64_t places = (static_cast<int64_t>(tensor_.bytes.size()) - bytes) / kAlignment + 1;
  const auto begin = static_cast<size_t>(random.Below(places) * kAlignment);
  return {tensor_.dtype, std::move(shape),
          std::as_bytes(std::span(tensor_.bytes)).subspan(begin, static_cast<size_t>(bytes))};
}

}  // namespace tessera::load
