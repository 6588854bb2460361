// Loads what the copy engine cannot: rows of any alignment and stride, and tokens beyond its coordinates.
#pragma once

#include <type_traits>

#include "kernels/cuda/hopper/tiles.cuh"

namespace tessera::kernels::cuda::hopper {

// By a warp. Fills a tile, as SlabTile lays it out: with `num_rows` rows, which begin offset(row) elements
// behind the tensor's data, and zeros below them; of each row `head_dim` elements, and zeros behind them.
// Every lane has its part in shared memory when this returns.
template <typename Element>
class RowCopy {
 public:
  template <class Tile, class Offset>
  __device__ __forceinline__ static void Load(const DeviceTensor& tensor, int32_t head_dim, int32_t num_rows,
                                              const Offset& offset, Tile& tile) {
    constexpr int kTileRows = Tile::kSlabBytes / 128;
    const uint32_t piece_bytes = PieceBytes(tensor, head_dim);
    const int32_t lane = static_cast<int32_t>(threadIdx.x % 32), chunk = lane % kSlabChunks;
#pragma unroll 1
    for (int32_t row = lane / kSlabChunks; row < kTileRows; row += 32 / kSlabChunks) {
      const bool exists = row < num_rows;
      const Element* from =
          static_cast<const Element*>(tensor.data) + (exists ? offset(row) : 0) + chunk * kChunkElements;
      auto* to = reinterpret_cast<std::byte*>(tile.Chunk(row, chunk));
      int32_t left = exists ? head_dim - chunk * kChunkElements : 0;
#pragma unroll 1
      for (int32_t slab = 0; slab < Tile::kSlabs; ++slab) {
        LoadChunk(to, from, left, piece_bytes);
        from += kSlabChunks * kChunkElements;
        to += Tile::kSlabBytes;
        left -= kSlabChunks * kChunkElements;
      }
    }
    ptx::CpAsyncCommit();
    ptx::CpAsyncWait<0>();
  }

 private:
  using Bits = std::conditional_t<sizeof(Element) == 1, uint8_t, uint16_t>;
  static_assert(sizeof(Bits) == sizeof(Element));
  static constexpr int kSlabChunks = 8;
  static constexpr int kChunkBytes = 16, kChunkElements = kChunkBytes / sizeof(Element);

  // The widest pieces that every row of the tensor consists of: the largest power of two, up to a chunk, that
  // divides where rows begin and how long they are.
  __device__ static uint32_t PieceBytes(const DeviceTensor& tensor, int32_t head_dim) {
    const auto elements = static_cast<uint32_t>(tensor.token_stride | tensor.head_stride | head_dim);
    const uint32_t bytes = static_cast<uint32_t>(reinterpret_cast<uintptr_t>(tensor.data)) |
                           elements * static_cast<uint32_t>(sizeof(Element)) | kChunkBytes;
    return bytes & -bytes;
  }

  // A chunk: `left` elements of the row or as many as it takes, and then zeros.
  __device__ static void LoadChunk(std::byte* to, const Element* from, int32_t left, uint32_t piece_bytes) {
    const uint32_t address = ptx::SharedAddress(to);
    switch (piece_bytes) {
      case 16:
        ptx::CpAsync16(address, from, left > 0 ? 16 : 0);
        break;
      case 8:
#pragma unroll
        for (int i = 0; i < kChunkElements; i += kChunkElements / 2) {
          ptx::CpAsync8(address + i * sizeof(Element), from + i, left > i ? 8 : 0);
        }
        break;
      case 4:
#pragma unroll
        for (int i = 0; i < kChunkElements; i += kChunkElements / 4) {
          ptx::CpAsync4(address + i * sizeof(Element), from + i, left > i ? 4 : 0);
        }
        break;
      default:
        LoadElements(reinterpret_cast<uint4*>(to), reinterpret_cast<const Bits*>(from), left);
    }
  }

  // Asynchronous copies have 4 bytes at least: narrower pieces go through registers.
  __device__ static void LoadElements(uint4* to, const Bits* from, int32_t left) {
    uint32_t elements[kChunkElements];
#pragma unroll
    for (int i = 0; i < kChunkElements; ++i) elements[i] = i < left ? __ldg(from + i) : 0;
    uint32_t words[4] = {};
#pragma unroll
    for (int i = 0; i < kChunkElements; ++i) {
      const int at = i * static_cast<int>(sizeof(Bits));
      words[at / 4] |= elements[i] << at % 4 * 8;
    }
    *to = make_uint4(words[0], words[1], words[2], words[3]);
  }
};

// By a whole warp.
template <class Config>
class RowLoader {
 public:
  __device__ RowLoader(const HopperProblem& launch, Shared<Config>& shared)
      : problem(launch.problem), shared(shared) {}

  __device__ void LoadQuery(const Posting& posting, int stage) const {
    const BlockWork& work = posting.work;
    const DeviceTensor& q = problem.q;
    RowCopy<Element>::Load(
        q, problem.head_dim_qk, Min(problem.tile_rows, work.num_rows - work.first_row),
        [&](int32_t row) {
          return (work.sequence.q_begin + work.Query(work.first_row + row)) * q.token_stride +
                 work.Head(work.first_row + row) * q.head_stride;
        },
        shared.q[stage]);
    Arrive(shared.q_full[stage]);
  }

  __device__ void LoadKeys(const Posting& posting, int32_t tile, int stage) const {
    LoadKv(problem.k, problem.head_dim_qk, posting.work, tile * Config::kTileKv, shared.k[stage]);
    Arrive(shared.k_full[stage]);
  }

  __device__ void LoadValues(const Posting& posting, int32_t tile, int stage) const {
    LoadKv(problem.v, problem.head_dim_v, posting.work, tile * Config::kTileKv, shared.v[stage]);
    Arrive(ArrivalOfValues(shared, problem, posting.walk, tile, stage));
  }

  // Behind what all lanes have written.
  __device__ void Arrive(ptx::Barrier& barrier) const {
    ptx::FenceAsyncProxy();
    __syncwarp();
    if (threadIdx.x % 32 == 0) ptx::Arrive(barrier);
  }

 private:
  using Element = typename Config::Element;

  const DeviceProblem& problem;
  Shared<Config>& shared;

  template <class Tile>
  __device__ static void LoadKv(const DeviceTensor& tensor, int32_t head_dim, const BlockWork& work,
                                int32_t first_key, Tile& tile) {
    const int64_t first =
        (work.sequence.kv_begin + first_key) * tensor.token_stride + work.kv_head * tensor.head_stride;
    RowCopy<Element>::Load(
        tensor, head_dim, work.sequence.kv_len - first_key,
        [&](int32_t row) { return first + row * tensor.token_stride; }, tile);
  }
};

}  // namespace tessera::kernels::cuda::hopper
