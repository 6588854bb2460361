// Random damage to valid files: the readers must answer, and under AddressSanitizer stay inside their
// buffers.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <functional>
#include <random>
#include <string>
#include <vector>

#include "client/tensor_files/npy.h"
#include "client/tensor_files/safetensors.h"
#include "client/tensor_files/zip.h"
#include "tests/client/numpy_files.h"

namespace tessera::client {
namespace {

constexpr int kMutations = 50'000;

// A few edits of a random kind each: flip a bit, set a byte to an extreme, cut, repeat or remove a piece.
std::string Mutate(std::string file, std::mt19937_64& random) {
  const auto below = [&](size_t n) { return static_cast<size_t>(random() % n); };
  for (size_t edits = 1 + below(4); edits > 0 && !file.empty(); --edits) {
    const size_t at = below(file.size());
    const size_t length = 1 + below(std::min<size_t>(16, file.size() - at));
    switch (below(5)) {
      case 0:
        file[at] = static_cast<char>(file[at] ^ (1 << below(8)));
        break;
      case 1:
        file.replace(at, length, std::string(length, below(2) == 0 ? '\xff' : '\0'));
        break;
      case 2:
        file.resize(at);
        break;
      case 3:
        file.insert(at, file.substr(below(file.size()), length));
        break;
      default:
        file.erase(at, length);
    }
  }
  return file;
}

void Check(const StoredTensor& tensor) {
  if (ElementSize(tensor.element) == 0) return;
  const auto count = NumElements(tensor.shape);
  ASSERT_TRUE(count);
  EXPECT_EQ(static_cast<int64_t>(tensor.bytes.size()), *count * ElementSize(tensor.element));
}

void MutateAll(const std::vector<std::string>& seeds, const std::function<void(const std::string&)>& read) {
  const uint64_t seed = std::random_device{}();
  testing::Test::RecordProperty("seed", std::to_string(seed));
  SCOPED_TRACE(testing::Message() << "seed " << seed);
  std::mt19937_64 random(seed);
  for (int i = 0; i < kMutations; ++i) read(Mutate(seeds[static_cast<size_t>(i) % seeds.size()], random));
}

TEST(TensorFileMutationTest, NpyReaderSurvives) {
  MutateAll({NumPyArray(), NumPyArray().substr(0, 128)}, [](const std::string& file) {
    if (const auto tensor = ParseNpy(file); tensor.ok()) Check(*tensor);
  });
}

TEST(TensorFileMutationTest, ZipReaderSurvives) {
  MutateAll({NumPyArchive(), NumPyCompressedArchive()}, [](const std::string& file) {
    const auto members = ParseZip(file);
    if (!members.ok()) return;
    for (const auto& [name, content] : *members) {
      if (const auto tensor = ParseNpy(content); tensor.ok()) Check(*tensor);
    }
  });
}

TEST(TensorFileMutationTest, SafetensorsReaderSurvives) {
  const Tensor q{v1::DATA_TYPE_FP32, {2, 3}, std::string(24, 'q')};
  const Tensor k{v1::DATA_TYPE_BF16, {5}, std::string(10, 'k')};
  MutateAll({FormatSafetensors({{"q", q.view()}, {"k", k.view()}}), FormatSafetensors({{"q", q.view()}})},
            [](const std::string& file) {
              const auto tensors = ParseSafetensors(file);
              if (!tensors.ok()) return;
              for (const auto& [name, tensor] : *tensors) Check(tensor);
            });
}

}  // namespace
}  // namespace tessera::client
