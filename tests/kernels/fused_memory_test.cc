// Every byte that the fused kernel may touch lies against an inaccessible page: AddressSanitizer sees neither
// AMX tile loads and stores nor masked vector loads, the processor does.
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cmath>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "kernels/cpu/fused_attention.h"

namespace tessera::kernels::cpu {
namespace {

enum class Side { kBegin, kEnd };  // where the inaccessible page touches the memory

// Memory of exactly `bytes`, up to the alignment of its begin, between two inaccessible pages.
class GuardedMemory {
 public:
  GuardedMemory(int64_t bytes, Side side) {
    const int64_t page = sysconf(_SC_PAGESIZE);
    const int64_t inside = (bytes + page - 1) / page * page;
    mapped_bytes_ = inside + 2 * page;
    void* const mapped = mmap(nullptr, mapped_bytes_, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    EXPECT_NE(mapped, MAP_FAILED);
    base_ = static_cast<std::byte*>(mapped);
    EXPECT_EQ(mprotect(base_ + page, inside, PROT_READ | PROT_WRITE), 0);
    data_ = base_ + page + (side == Side::kEnd ? inside - bytes : 0);
  }
  ~GuardedMemory() { munmap(base_, mapped_bytes_); }
  GuardedMemory(const GuardedMemory&) = delete;
  GuardedMemory& operator=(const GuardedMemory&) = delete;

  std::byte* data() const { return data_; }

 private:
  std::byte* base_;
  std::byte* data_;
  int64_t mapped_bytes_;
};

struct Shape {
  int64_t q_len, kv_len;
  int32_t dim_qk, dim_v;
  int32_t num_splits = 1;
  bool head_major = false;
};

constexpr int32_t kQueryHeads = 2;

int64_t SizeOf(tessera_dtype dtype) { return dtype == TESSERA_DTYPE_FP32 ? 4 : 2; }

// Random bits of small finite numbers, as any of the three dtypes.
void Fill(std::byte* data, int64_t count, tessera_dtype dtype) {
  std::mt19937 random(7);
  for (int64_t i = 0; i < count; ++i) {
    if (dtype == TESSERA_DTYPE_FP32) {
      const float value = static_cast<float>(random() % 2001) / 1000 - 1;
      std::memcpy(data + i * 4, &value, 4);
    } else {
      const auto sign = static_cast<uint16_t>(random() % 2 << 15);
      const uint16_t one = dtype == TESSERA_DTYPE_BF16 ? 0x3F80 : 0x3C00;
      const auto bits = static_cast<uint16_t>(sign | (one - random() % 256));
      std::memcpy(data + i * 2, &bits, 2);
    }
  }
}

void RunBetweenGuards(const Shape& shape, Isa isa, tessera_dtype dtype, Side side) {
  const auto tensor = [&](int64_t tokens, int32_t heads, int32_t dim, const GuardedMemory& memory) {
    return tessera_tensor{memory.data(), tokens * heads * dim, shape.head_major ? dim : int64_t{heads} * dim,
                          shape.head_major ? tokens * dim : dim, dtype};
  };
  const int64_t q_count = shape.q_len * kQueryHeads * shape.dim_qk, k_count = shape.kv_len * shape.dim_qk;
  const int64_t v_count = shape.kv_len * shape.dim_v, o_count = shape.q_len * kQueryHeads * shape.dim_v;
  const int64_t element = SizeOf(dtype), lse_count = shape.q_len * kQueryHeads;
  const GuardedMemory q(q_count * element, side), k(k_count * element, side), v(v_count * element, side);
  const GuardedMemory o(o_count * element, side), lse(lse_count * 4, side);
  Fill(q.data(), q_count, dtype);
  Fill(k.data(), k_count, dtype);
  Fill(v.data(), v_count, dtype);
  std::memset(o.data(), 0xFF, o_count * element);

  tessera_sequence sequence{};
  sequence.q_len = shape.q_len;
  sequence.kv_len = shape.kv_len;
  sequence.window_left = sequence.window_right = -1;
  tessera_attention_problem problem{};
  problem.struct_size = sizeof problem;
  problem.num_q_heads = kQueryHeads;
  problem.num_kv_heads = 1;
  problem.head_dim_qk = shape.dim_qk;
  problem.head_dim_v = shape.dim_v;
  problem.scale = 0.1f;
  problem.q = tensor(shape.q_len, kQueryHeads, shape.dim_qk, q);
  problem.k = tensor(shape.kv_len, 1, shape.dim_qk, k);
  problem.v = tensor(shape.kv_len, 1, shape.dim_v, v);
  problem.o = tensor(shape.q_len, kQueryHeads, shape.dim_v, o);
  problem.lse = {reinterpret_cast<float*>(lse.data()), lse_count, kQueryHeads, 1};
  problem.sequences = &sequence;
  problem.num_sequences = 1;

  const FusedConfig config{.isa = isa, .tile_kv = 64, .num_splits = shape.num_splits};
  const GuardedMemory workspace(FusedWorkspaceBytes(problem, config), side);
  ThreadPool pool(1);
  FusedAttention(problem, config, workspace.data(), pool);

  const auto* const lse_values = reinterpret_cast<const float*>(lse.data());
  for (int64_t i = 0; i < lse_count; ++i) ASSERT_TRUE(std::isfinite(lse_values[i])) << "lse " << i;
  const std::vector<std::byte> untouched(element, std::byte{0xFF});
  for (int64_t i = 0; i < o_count; ++i) {
    ASSERT_NE(std::memcmp(o.data() + i * element, untouched.data(), element), 0) << "output " << i;
  }
}

TEST(FusedMemoryTest, StaysInsideItsTensorsAndWorkspace) {
  const std::vector<Shape> shapes = {
      {1, 1, 1, 1},        {1, 129, 64, 64, 3}, {2, 67, 33, 31},   {3, 130, 80, 72, 2, true},
      {17, 33, 16, 16},    {40, 95, 40, 24},    {70, 127, 65, 63}, {33, 64, 128, 128, 1, true},
      {65, 97, 7, 200, 2}, {9, 65, 1023, 1021}, {130, 200, 31, 1}};
  for (Isa isa : UsableIsas()) {
    for (tessera_dtype dtype : {TESSERA_DTYPE_FP32, TESSERA_DTYPE_FP16, TESSERA_DTYPE_BF16}) {
      for (const Shape& shape : shapes) {
        for (Side side : {Side::kBegin, Side::kEnd}) {
          SCOPED_TRACE(std::string(IsaName(isa)) + " dtype " + std::to_string(dtype) + " q " +
                       std::to_string(shape.q_len) + " kv " + std::to_string(shape.kv_len) + " dims " +
                       std::to_string(shape.dim_qk) + " " + std::to_string(shape.dim_v));
          RunBetweenGuards(shape, isa, dtype, side);
        }
      }
    }
  }
}

}  // namespace
}  // namespace tessera::kernels::cpu
