// Which tensors TMA can move, and what comes of mapping them with and without a driver: maps are made by the
// driver on the host; it asks for a current GPU, though it does not touch it.
#include <gtest/gtest.h>

#include <cstring>
#include <thread>
#include <vector>

#include "kernels/cuda/tensor_map.h"
#include "tests/kernels/cuda_batch.h"

namespace tessera::kernels::cuda {
namespace {

bool IsZero(const CUtensorMap& map) {
  const CUtensorMap zero{};
  return std::memcmp(&map, &zero, sizeof map) == 0;
}

// Whether there is a driver and a GPU to it; makes the GPU current, as the driver demands.
bool HasDriver() { return cudaFree(nullptr) == cudaSuccess; }

CudaBatch SomeBatch(int32_t head_dim = 128) {
  CudaBatch batch(8, 2, head_dim);
  batch.Add(100, 200);
  batch.Add(0, 50);
  batch.Add(30, 0);
  // Never read: an address is all that a map takes of them.
  for (tessera_tensor* t : {&batch.problem.q, &batch.problem.k, &batch.problem.v, &batch.problem.o}) {
    t->data = reinterpret_cast<void*>(uintptr_t{1} << 32);
  }
  return batch;
}

TEST(CanMapTest, TakesElementsOfOneAndTwoBytes) {
  CudaBatch batch = SomeBatch();
  EXPECT_TRUE(CanMapInputs(batch.problem));
  EXPECT_TRUE(CanMapOutput(batch.problem));
  batch.problem.o.dtype = TESSERA_DTYPE_FP32;
  EXPECT_TRUE(CanMapInputs(batch.problem));
  EXPECT_FALSE(CanMapOutput(batch.problem));
  batch.problem.k.dtype = TESSERA_DTYPE_FP32;
  EXPECT_FALSE(CanMapInputs(batch.problem));
  for (tessera_tensor* t : {&batch.problem.q, &batch.problem.k, &batch.problem.v})
    t->dtype = TESSERA_DTYPE_FP8_E4M3;
  EXPECT_TRUE(CanMapInputs(batch.problem));
}

TEST(CanMapTest, WantsRowsOnSixteenBytes) {
  EXPECT_FALSE(CanMapInputs(SomeBatch(/*head_dim=*/100).problem));
  CudaBatch batch = SomeBatch();
  batch.problem.head_dim_qk = 99;  // odd, but in rows of 128
  EXPECT_TRUE(CanMapInputs(batch.problem));
  batch.problem.k.data = reinterpret_cast<void*>(uintptr_t{8});
  EXPECT_FALSE(CanMapInputs(batch.problem));
  batch = SomeBatch();
  batch.problem.v.token_stride += 4;
  EXPECT_FALSE(CanMapInputs(batch.problem));
  batch.problem.v.token_stride = 0;
  EXPECT_FALSE(CanMapInputs(batch.problem));
}

TEST(CanMapTest, LimitsStridesAndTokens) {
  CudaBatch batch = SomeBatch();
  batch.problem.k.token_stride = (int64_t{1} << 39) - 8;
  EXPECT_TRUE(CanMapInputs(batch.problem));
  batch.problem.k.token_stride = int64_t{1} << 39;
  EXPECT_FALSE(CanMapInputs(batch.problem));
  batch = SomeBatch();
  batch.problem.q.head_stride = (int64_t{1} << 39) / 8;  // the stride of all heads together counts
  EXPECT_FALSE(CanMapInputs(batch.problem));
  batch = SomeBatch();
  batch.sequences[0].kv_begin = int64_t{1} << 31;
  EXPECT_FALSE(CanMapInputs(batch.problem));
  EXPECT_TRUE(CanMapOutput(batch.problem));
  batch.sequences[0].kv_len = 0;  // what no sequence reaches does not count
  EXPECT_TRUE(CanMapInputs(batch.problem));
}

TEST(CanMapTest, IgnoresStridesThatAreNotTaken) {
  CudaBatch batch(1, 1);
  batch.Add(1, 1);
  for (tessera_tensor* t : {&batch.problem.q, &batch.problem.k, &batch.problem.v}) {
    t->token_stride = t->head_stride = 3;
  }
  EXPECT_TRUE(CanMapInputs(batch.problem));
  batch.sequences[0].q_len = 2;
  EXPECT_FALSE(CanMapInputs(batch.problem));
}

TEST(CanMapTest, TakesTensorsWithoutTokens) {
  CudaBatch batch = SomeBatch();
  for (tessera_sequence& s : batch.sequences) s.kv_len = 0;
  batch.problem.k.data = batch.problem.v.data = nullptr;
  batch.problem.k.token_stride = 1;
  EXPECT_TRUE(CanMapInputs(batch.problem));
}

TEST(TensorMapTest, RefusesWhatCannotBeMapped) {
  CudaBatch batch = SomeBatch();
  batch.problem.q.token_stride = batch.problem.k.token_stride = 4;
  CUtensorMap map;
  EXPECT_EQ(MapQuery(batch.problem, {4, 128}, &map), cudaErrorInvalidValue);
  EXPECT_EQ(MapKey(batch.problem, 128, &map), cudaErrorInvalidValue);
  EXPECT_TRUE(IsZero(map));
}

TEST(TensorMapTest, AnEmptyLaunchHasEmptyMaps) {
  CudaBatch batch(8, 2);
  batch.Add(0, 0);
  CUtensorMap map;
  std::memset(&map, 1, sizeof map);
  EXPECT_EQ(MapQuery(batch.problem, {4, 128}, &map), cudaSuccess);
  EXPECT_TRUE(IsZero(map));
  EXPECT_EQ(MapOutput(batch.problem, {4, 128}, &map), cudaSuccess);
  EXPECT_EQ(MapKey(batch.problem, 128, &map), cudaSuccess);
  EXPECT_EQ(MapValue(batch.problem, 128, &map), cudaSuccess);
  EXPECT_TRUE(IsZero(map));
}

TEST(TensorMapTest, FindsTheDriverOnceOrSaysThatThereIsNone) {
  const cudaError_t expected = HasDriver() ? cudaSuccess : cudaErrorInsufficientDriver;
  const CudaBatch batch = SomeBatch();
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([&] {
      HasDriver();
      CUtensorMap map;
      EXPECT_EQ(MapKey(batch.problem, 128, &map), expected);
      EXPECT_EQ(IsZero(map), expected != cudaSuccess);
    });
  }
  for (std::thread& thread : threads) thread.join();
}

TEST(TensorMapTest, TheDriverTakesEveryLayoutThatCanBeMapped) {
  if (!HasDriver()) GTEST_SKIP() << "no CUDA device";
  const auto check = [](const CudaBatch& batch, const RowTiling& tiling) {
    ASSERT_TRUE(CanMapInputs(batch.problem));
    ASSERT_TRUE(CanMapOutput(batch.problem));
    CUtensorMap map;
    EXPECT_EQ(MapQuery(batch.problem, tiling, &map), cudaSuccess);
    EXPECT_EQ(MapOutput(batch.problem, tiling, &map), cudaSuccess);
    EXPECT_EQ(MapKey(batch.problem, 176, &map), cudaSuccess);
    EXPECT_EQ(MapValue(batch.problem, 176, &map), cudaSuccess);
    EXPECT_FALSE(IsZero(map));
    EXPECT_EQ(MapKey(batch.problem, 257, &map), cudaErrorInvalidValue);
  };
  for (int32_t head_dim : {8, 40, 64, 96, 128, 192, 256}) {
    SCOPED_TRACE(head_dim);
    for (const RowTiling& tiling : {RowTiling{1, 192}, RowTiling{2, 128}, RowTiling{4, 192}}) {
      check(SomeBatch(head_dim), tiling);
    }
  }
  {
    SCOPED_TRACE("(head, token, dim)");
    CudaBatch batch = SomeBatch();
    for (tessera_tensor* t : {&batch.problem.q, &batch.problem.k, &batch.problem.v, &batch.problem.o}) {
      t->token_stride = 128;
      t->head_stride = 128 * 250;
    }
    check(batch, {4, 128});
  }
  {
    SCOPED_TRACE("one head, one token, odd strides");
    CudaBatch batch(1, 1, 99);
    batch.Add(1, 1);
    check(batch, {1, 128});
  }
  {
    SCOPED_TRACE("no keys");
    CudaBatch batch = SomeBatch();
    for (tessera_sequence& s : batch.sequences) s.kv_len = 0;
    batch.problem.k.data = batch.problem.v.data = nullptr;
    check(batch, {4, 128});
  }
}

}  // namespace
}  // namespace tessera::kernels::cuda
