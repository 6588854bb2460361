#include "tests/integration/bad_input_cases.h"

#include <cmath>
#include <cstring>
#include <fstream>
#include <limits>
#include <utility>

namespace tessera::testing {
namespace {

using grpc::StatusCode;

const float kNaN = std::numeric_limits<float>::quiet_NaN();
const float kInfinity = std::numeric_limits<float>::infinity();

void SetTensor(v1::Tensor& tensor, std::vector<int64_t> shape, uint32_t raw_index) {
  tensor.set_dtype(v1::DATA_TYPE_FP32);
  tensor.mutable_shape()->Assign(shape.begin(), shape.end());
  tensor.set_raw_index(raw_index);
}

// One sequence of `tokens` tokens with one head of `dim`, all zeros.
void Reshape(v1::AttendRequest& request, int64_t tokens, int64_t dim) {
  request.clear_raw();
  for (auto* tensor : {request.mutable_q(), request.mutable_k(), request.mutable_v()}) {
    SetTensor(*tensor, {tokens, 1, dim}, static_cast<uint32_t>(request.raw_size()));
    request.add_raw(std::string(static_cast<size_t>(tokens * dim * 4), '\0'));
  }
}

// The good request in a padded batch of `batch` rows.
void Pad(v1::AttendRequest& request, int64_t batch) {
  request.set_layout(v1::LAYOUT_BSHD);
  for (auto* tensor : {request.mutable_q(), request.mutable_k(), request.mutable_v()}) {
    const std::vector<int64_t> shape = {batch, 4 / batch, tensor->shape(1), 8};
    tensor->mutable_shape()->Assign(shape.begin(), shape.end());
  }
}

// Turns fp32 tensors into ones of a type with `bytes` bytes an element.
void SetDType(v1::AttendRequest& request, v1::DataType dtype, size_t bytes) {
  for (auto* tensor : {request.mutable_q(), request.mutable_k(), request.mutable_v()})
    tensor->set_dtype(dtype);
  for (auto& raw : *request.mutable_raw()) raw.resize(raw.size() / 4 * bytes);
}

void SetStrides(v1::Tensor& tensor, std::vector<int64_t> strides) {
  tensor.mutable_strides()->Assign(strides.begin(), strides.end());
}

v1::Tensor& AddMask(v1::AttendRequest& request, std::vector<int64_t> shape) {
  const auto index = static_cast<uint32_t>(request.raw_size());
  v1::Tensor& mask = *request.add_masks();
  SetTensor(mask, shape, index);
  mask.set_dtype(v1::DATA_TYPE_BOOL);
  int64_t elements = 1;
  for (const int64_t extent : shape) elements *= extent;
  request.add_raw(std::string(static_cast<size_t>(elements), '\1'));
  return mask;
}

void WriteFile(const std::filesystem::path& path, const std::string& bytes) {
  std::ofstream(path, std::ios::binary) << bytes;
}

std::string NpyHeader(const std::string& dict) {
  std::string header = dict;
  while ((10 + header.size() + 1) % 64 != 0) header += ' ';
  header += '\n';
  std::string bytes("\x93NUMPY\x01\x00", 8);
  bytes += static_cast<char>(header.size() & 0xff);
  bytes += static_cast<char>(header.size() >> 8);
  return bytes + header;
}

}  // namespace

v1::AttendRequest GoodRequest() {
  v1::AttendRequest request;
  request.set_id("good");
  SetTensor(*request.mutable_q(), {4, 4, 8}, 0);
  SetTensor(*request.mutable_k(), {4, 2, 8}, 1);
  SetTensor(*request.mutable_v(), {4, 2, 8}, 2);
  for (const size_t bytes : {4 * 4 * 8 * 4, 4 * 2 * 8 * 4, 4 * 2 * 8 * 4}) {
    std::string raw(bytes, '\0');
    for (size_t i = 0; i + 4 <= bytes; i += 4) {
      const float value = std::sin(static_cast<float>(i));
      std::memcpy(&raw[i], &value, sizeof value);
    }
    request.add_raw(std::move(raw));
  }
  return request;
}

void WriteGoodArrays(const std::filesystem::path& directory) {
  const std::string bytes = NpyHeader("{'descr': '<f4', 'fortran_order': False, 'shape': (4, 2, 8), }") +
                            std::string(4 * 2 * 8 * 4, '\0');
  for (const char* name : {"q.npy", "k.npy", "v.npy"}) WriteFile(directory / name, bytes);
}

const std::vector<BadInput>& BadInputs() {
  using R = v1::AttendRequest;
  const auto kInvalid = StatusCode::INVALID_ARGUMENT;
  const auto kRange = StatusCode::OUT_OF_RANGE;
  const auto kExhausted = StatusCode::RESOURCE_EXHAUSTED;
  const auto kUnimplemented = StatusCode::UNIMPLEMENTED;
  static const std::vector<BadInput> table = {
      // Bytes and tensors.
      {"TooFewBytes",
       Attend{[](R& r) { r.mutable_raw(0)->pop_back(); }, {kInvalid, "WRONG_BYTE_COUNT", "512", "511"}}},
      {"TooManyBytes",
       Attend{[](R& r) { r.mutable_raw(2)->push_back('x'); }, {kInvalid, "WRONG_BYTE_COUNT", "256", "257"}}},
      {"NoBytes",
       Attend{[](R& r) { r.clear_raw(); }, {kInvalid, "RAW_INDEX_OUT_OF_RANGE", "0 entries", "0"}}},
      {"RawIndexPastEnd", Attend{[](R& r) { r.mutable_k()->set_raw_index(7); },
                                 {kInvalid, "RAW_INDEX_OUT_OF_RANGE", "3 entries", "7"}}},
      {"RawIndexTwice", Attend{[](R& r) { r.mutable_v()->set_raw_index(1); },
                               {kInvalid, "RAW_INDEX_REUSED", "no other tensor", "1"}}},
      {"RawUnused", Attend{[](R& r) { r.add_raw("stray"); }, {kInvalid, "RAW_UNUSED", "", ""}}},
      {"TensorWithoutData",
       Attend{[](R& r) { r.mutable_q()->clear_data(); }, {kInvalid, "DATA_MISSING", "raw_index", ""}}},
      {"MissingTensor", Attend{[](R& r) { r.clear_k(); }, {kInvalid, "TENSOR_MISSING", "a tensor", "none"}}},
      {"RegionsNotOffered", Attend{[](R& r) { r.mutable_q()->mutable_region()->set_name("x"); },
                                   {kUnimplemented, "REGIONS_UNSUPPORTED", "inline", "region"}}},
      {"DestinationRegion", Attend{[](R& r) { r.add_outputs()->mutable_destination()->set_name("x"); },
                                   {kUnimplemented, "REGIONS_UNSUPPORTED", "", ""}}},
      {"WrongRank",
       Attend{[](R& r) { r.mutable_q()->add_shape(1); }, {kInvalid, "WRONG_RANK", "rank 3", "rank 4"}}},
      {"NoShape",
       Attend{[](R& r) { r.mutable_q()->clear_shape(); }, {kInvalid, "WRONG_RANK", "rank 3", "rank 0"}}},
      {"ZeroHeadDim", Attend{[](R& r) {
                               for (auto* t : {r.mutable_q(), r.mutable_k()}) t->set_shape(2, 0);
                               r.mutable_raw(0)->clear();
                               r.mutable_raw(1)->clear();
                             },
                             {kInvalid, "HEAD_DIM_INVALID", "at least 1", "0"}}},
      {"ZeroHeads", Attend{[](R& r) {
                             r.mutable_q()->set_shape(1, 0);
                             r.mutable_raw(0)->clear();
                           },
                           {kInvalid, "HEAD_COUNT_INVALID", "at least 1", "0"}}},
      {"NegativeDim",
       Attend{[](R& r) { r.mutable_q()->set_shape(0, -4); }, {kInvalid, "SHAPE_INVALID", "0..", "-4"}}},
      {"HugeDim", Attend{[](R& r) { r.mutable_q()->set_shape(0, int64_t{1} << 62); },
                         {kInvalid, "SHAPE_INVALID", "0..", "4611686018427387904"}}},
      {"HugeTensor", Attend{[](R& r) { r.mutable_q()->set_shape(0, int64_t{1} << 34); },
                            {kInvalid, "WRONG_BYTE_COUNT", "2199023255552", "512"}}},
      {"ShapeProductOverflows", Attend{[](R& r) {
                                         for (int i = 0; i < 3; ++i)
                                           r.mutable_q()->set_shape(i, int64_t{1} << 30);
                                       },
                                       {kInvalid, "SHAPE_OVERFLOW", "", "1073741824"}}},
      {"StrideCount", Attend{[](R& r) { r.mutable_q()->add_strides(1); },
                             {kInvalid, "STRIDES_INVALID", "3 entries", "1 entries"}}},
      {"NegativeStride", Attend{[](R& r) {
                                  SetStrides(*r.mutable_q(), {-32, 8, 1});
                                },
                                {kInvalid, "STRIDES_INVALID", "", "-32"}}},
      {"InnerStrideNotOne", Attend{[](R& r) {
                                     SetStrides(*r.mutable_q(), {64, 16, 2});
                                   },
                                   {kInvalid, "STRIDES_INVALID", "the last one 1", "2"}}},
      {"StridesPastBytes", Attend{[](R& r) {
                                    SetStrides(*r.mutable_q(), {320, 8, 1});
                                  },
                                  {kInvalid, "WRONG_BYTE_COUNT", "3968", "512"}}},
      {"StrideSpanOverflows", Attend{[](R& r) {
                                       r.mutable_q()->set_shape(0, 1 << 30);
                                       SetStrides(*r.mutable_q(), {int64_t{1} << 39, 8, 1});
                                     },
                                     {kInvalid, "SHAPE_OVERFLOW", "", "549755813888"}}},
      {"UnknownDType", Attend{[](R& r) { r.mutable_q()->set_dtype(static_cast<v1::DataType>(99)); },
                              {kInvalid, "DTYPE_UNKNOWN", "", "99"}}},
      {"UnspecifiedDType", Attend{[](R& r) { r.mutable_v()->set_dtype(v1::DATA_TYPE_UNSPECIFIED); },
                                  {kInvalid, "DTYPE_UNKNOWN", "", "0"}}},
      {"BoolQueries",
       Attend{[](R& r) { SetDType(r, v1::DATA_TYPE_BOOL, 1); }, {kInvalid, "DTYPE_INVALID", "fp32", "bool"}}},
      {"MixedDTypes", Attend{[](R& r) {
                               r.mutable_k()->set_dtype(v1::DATA_TYPE_BF16);
                               r.mutable_raw(1)->resize(128);
                             },
                             {kInvalid, "DTYPE_MISMATCH", "fp32", "bf16"}}},
      {"Fp8OutputOfFp8", Attend{[](R& r) {
                                  SetDType(r, v1::DATA_TYPE_FP8_E4M3, 1);
                                  r.add_outputs()->set_dtype(v1::DATA_TYPE_FP8_E4M3);
                                },
                                {kInvalid, "OUTPUT_DTYPE_INVALID", "fp32, fp16, bf16", "fp8_e4m3"}}},
      {"ScaleCount", Attend{[](R& r) {
                              SetDType(r, v1::DATA_TYPE_FP8_E4M3, 1);
                              for (int i = 0; i < 3; ++i) r.add_k_scales(1);
                            },
                            {kInvalid, "SCALE_COUNT", "none, 1, 2", "3 entries"}}},
      {"ZeroScale", Attend{[](R& r) {
                             SetDType(r, v1::DATA_TYPE_FP8_E4M3, 1);
                             r.add_q_scales(0);
                           },
                           {kInvalid, "TENSOR_SCALE_INVALID", "above 0", "0"}}},
      {"NanScaleOfAHead", Attend{[](R& r) {
                                   SetDType(r, v1::DATA_TYPE_FP8_E4M3, 1);
                                   r.add_v_scales(1);
                                   r.add_v_scales(kNaN);
                                 },
                                 {kInvalid, "TENSOR_SCALE_INVALID", "above 0", "nan"}}},
      {"ScalesOfFp32", Attend{[](R& r) { r.add_v_scales(1); },
                              {kInvalid, "SCALES_UNEXPECTED", "fp32 and not fp8_e4m3", "scales"}}},
      // Shapes against each other.
      {"HeadsNotDivisible",
       Attend{[](R& r) {
                r.mutable_q()->set_shape(1, 3);
                r.mutable_raw(0)->resize(4 * 3 * 8 * 4);
              },
              {kInvalid, "HEAD_COUNT_NOT_DIVISIBLE", "multiple of num_kv_heads = 2", "3"}}},
      {"KeyDimDiffers", Attend{[](R& r) {
                                 r.mutable_k()->set_shape(2, 4);
                                 r.mutable_raw(1)->resize(128);
                               },
                               {kInvalid, "SHAPE_MISMATCH", "head_dim_qk 8", "4"}}},
      {"ValueTokensDiffer", Attend{[](R& r) {
                                     r.mutable_v()->set_shape(0, 2);
                                     r.mutable_raw(2)->resize(128);
                                   },
                                   {kInvalid, "SHAPE_MISMATCH", "tokens 4", "2"}}},
      {"ValueHeadsDiffer", Attend{[](R& r) {
                                    r.mutable_v()->set_shape(1, 1);
                                    r.mutable_raw(2)->resize(128);
                                  },
                                  {kInvalid, "SHAPE_MISMATCH", "kv_heads 2", "1"}}},
      {"BatchDiffers", Attend{[](R& r) {
                                Pad(r, 2);
                                r.mutable_k()->set_shape(0, 4);
                                r.mutable_k()->set_shape(1, 1);
                              },
                              {kInvalid, "SHAPE_MISMATCH", "batch 2", "4"}}},
      {"UnknownLayout",
       Attend{[](R& r) { r.set_layout(static_cast<v1::Layout>(9)); }, {kInvalid, "LAYOUT_UNKNOWN", "", "9"}}},
      // Lengths.
      {"LengthsBeyondTensor", Attend{[](R& r) {
                                       r.add_q_lens(5);
                                       r.add_kv_lens(4);
                                     },
                                     {kRange, "LENGTH_OUT_OF_RANGE", "4, the tokens of q", "5"}}},
      {"KeyLengthsBeyondTensor", Attend{[](R& r) {
                                          r.add_q_lens(4);
                                          r.add_kv_lens(400);
                                        },
                                        {kRange, "LENGTH_OUT_OF_RANGE", "4, the tokens of k", "400"}}},
      {"LengthsShortOfTensor", Attend{[](R& r) {
                                        r.add_q_lens(3);
                                        r.add_kv_lens(4);
                                      },
                                      {kInvalid, "LENGTH_SUM", "4", "3"}}},
      {"NegativeLength", Attend{[](R& r) {
                                  r.add_q_lens(5);
                                  r.add_q_lens(-1);
                                },
                                {kInvalid, "LENGTH_INVALID", "at least 0", "-1"}}},
      {"LengthSumOverflows", Attend{[](R& r) {
                                      for (int i = 0; i < 3; ++i)
                                        r.add_q_lens(std::numeric_limits<int64_t>::max());
                                    },
                                    {kRange, "LENGTH_OUT_OF_RANGE", "4", "9223372036854775807"}}},
      {"LengthCountsDiffer", Attend{[](R& r) {
                                      r.add_q_lens(4);
                                      r.add_kv_lens(2);
                                      r.add_kv_lens(2);
                                    },
                                    {kInvalid, "LENGTH_COUNT", "1 entries", "2 entries"}}},
      {"PaddedLengthBeyondRow", Attend{[](R& r) {
                                         Pad(r, 1);
                                         r.add_kv_lens(5);
                                       },
                                       {kRange, "LENGTH_OUT_OF_RANGE", "at most 4", "5"}}},
      // Options.
      {"NaNScale", Attend{[](R& r) { r.mutable_options()->set_scale(kNaN); },
                          {kInvalid, "SCALE_INVALID", "finite", "nan"}}},
      {"InfiniteScale", Attend{[](R& r) { r.mutable_options()->set_scale(kInfinity); },
                               {kInvalid, "SCALE_INVALID", "finite", "inf"}}},
      {"NegativeSoftcap", Attend{[](R& r) { r.mutable_options()->set_softcap(-1); },
                                 {kInvalid, "SOFTCAP_INVALID", "positive", "-1"}}},
      {"NaNSoftcap", Attend{[](R& r) { r.mutable_options()->set_softcap(kNaN); },
                            {kInvalid, "SOFTCAP_INVALID", "", "nan"}}},
      {"AlibiCount", Attend{[](R& r) { r.mutable_options()->add_alibi_slopes(1); },
                            {kInvalid, "PER_HEAD_COUNT", "4 entries", "1 entries"}}},
      {"NaNAlibi", Attend{[](R& r) {
                            for (int i = 0; i < 4; ++i) r.mutable_options()->add_alibi_slopes(kNaN);
                          },
                          {kInvalid, "ALIBI_SLOPE_INVALID", "finite", "nan"}}},
      {"SinkCount", Attend{[](R& r) {
                             for (int i = 0; i < 5; ++i) r.mutable_options()->add_sinks(0);
                           },
                           {kInvalid, "PER_HEAD_COUNT", "4 entries", "5 entries"}}},
      {"InfiniteSink", Attend{[](R& r) {
                                for (int i = 0; i < 4; ++i) r.mutable_options()->add_sinks(kInfinity);
                              },
                              {kInvalid, "SINK_INVALID", "", "inf"}}},
      {"CausalAndRightWindow", Attend{[](R& r) {
                                        r.mutable_options()->set_causal(true);
                                        r.mutable_options()->set_window_right(3);
                                      },
                                      {kInvalid, "WINDOW_CONFLICT", "0", "3"}}},
      {"NegativeWindow", Attend{[](R& r) { r.mutable_options()->set_window_left(-2); },
                                {kInvalid, "WINDOW_INVALID", "at least 0", "-2"}}},
      {"HugeWindow",
       Attend{[](R& r) { r.mutable_options()->set_window_left(std::numeric_limits<int64_t>::max()); },
              {kInvalid, "EXTENT_TOO_LARGE", "", "9223372036854775807"}}},
      {"UnknownAlignment",
       Attend{[](R& r) { r.mutable_options()->set_alignment(static_cast<v1::Alignment>(5)); },
              {kInvalid, "ALIGNMENT_UNKNOWN", "", "5"}}},
      {"DiagonalCount", Attend{[](R& r) {
                                 r.mutable_options()->add_diagonal_offsets(0);
                                 r.mutable_options()->add_diagonal_offsets(0);
                               },
                               {kInvalid, "DIAGONAL_COUNT", "1 entries", "2 entries"}}},
      {"HugeDiagonal",
       Attend{[](R& r) { r.mutable_options()->add_diagonal_offsets(std::numeric_limits<int64_t>::min()); },
              {kInvalid, "EXTENT_TOO_LARGE", "", "-9223372036854775808"}}},
      {"IdTooLong",
       Attend{[](R& r) { r.set_id(std::string(129, 'x')); }, {kInvalid, "ID_TOO_LONG", "128", "129"}}},
      // Masks.
      {"MaskShape", Attend{[](R& r) {
                             AddMask(r, {4, 4, 5});
                           },
                           {kInvalid, "MASK_SHAPE", "[4, 4, 4]", "[4, 4, 5]"}}},
      {"MaskRank", Attend{[](R& r) {
                            AddMask(r, {1, 4, 4, 4});
                          },
                          {kInvalid, "WRONG_RANK", "rank 0 to 3", "rank 4"}}},
      {"MaskCount", Attend{[](R& r) {
                             AddMask(r, {4, 4});
                             AddMask(r, {4, 4});
                           },
                           {kInvalid, "MASK_COUNT", "1 sequences", "2"}}},
      {"MaskBytes", Attend{[](R& r) {
                             AddMask(r, {4, 4});
                             r.mutable_raw(3)->pop_back();
                           },
                           {kInvalid, "WRONG_BYTE_COUNT", "16", "15"}}},
      {"MaskDType", Attend{[](R& r) {
                             AddMask(r, {4, 4}).set_dtype(v1::DATA_TYPE_FP8_E4M3);
                           },
                           {kInvalid, "MASK_DTYPE_INVALID", "bool", "fp8_e4m3"}}},
      {"RaggedMaskShape", Attend{[](R& r) {
                                   r.add_q_lens(1);
                                   r.add_q_lens(3);
                                   AddMask(r, {1, 1});
                                   AddMask(r, {3, 2});
                                 },
                                 {kInvalid, "MASK_SHAPE", "[4, 3, 3]", "[3, 2]"}}},
      // Outputs.
      {"OutputTwice", Attend{[](R& r) {
                               r.add_outputs();
                               r.add_outputs();
                             },
                             {kInvalid, "OUTPUT_DUPLICATE", "once", ""}}},
      {"LseAlone", Attend{[](R& r) { r.add_outputs()->set_kind(v1::OUTPUT_KIND_LSE); },
                          {kInvalid, "OUTPUT_MISSING", "", ""}}},
      {"LseInBf16", Attend{[](R& r) {
                             r.add_outputs();
                             auto* o = r.add_outputs();
                             o->set_kind(v1::OUTPUT_KIND_LSE);
                             o->set_dtype(v1::DATA_TYPE_BF16);
                           },
                           {kInvalid, "OUTPUT_DTYPE_INVALID", "fp32", "bf16"}}},
      {"OutputInFp8", Attend{[](R& r) { r.add_outputs()->set_dtype(v1::DATA_TYPE_FP8_E4M3); },
                             {kInvalid, "OUTPUT_DTYPE_INVALID", "fp32, fp16, bf16", "fp8_e4m3"}}},
      {"UnknownOutput", Attend{[](R& r) { r.add_outputs()->set_kind(static_cast<v1::OutputKind>(7)); },
                               {kInvalid, "OUTPUT_KIND_UNKNOWN", "", "7"}}},
      // Backends and limits.
      {"UnknownBackend", Attend{[](R& r) { r.set_backend("tpu_fused"); },
                                {StatusCode::NOT_FOUND, "BACKEND_NOT_FOUND", "cpu_fused", "tpu_fused"}}},
      {"HeadDimUnsupported", Attend{[](R& r) {
                                      Reshape(r, 4, 2048);
                                      r.set_backend("cpu_fused");
                                    },
                                    {kUnimplemented, "HEAD_DIM_UNSUPPORTED", "1024", "2048"}}},
      {"WorkspaceOverLimit", Attend{[](R& r) {
                                      Reshape(r, 2048, 8);
                                      r.set_backend("cpu_standard");
                                    },
                                    {kExhausted, "WORKSPACE_LIMIT", std::to_string(kMaxWorkspaceBytes), ""}}},
      {"BatchTokensOverLimit",
       Attend{[](R& r) { Reshape(r, 2049, 8); }, {kExhausted, "BATCH_TOKENS_LIMIT", "4096", "4098"}}},
      {"MessageOverLimit", Attend{[](R& r) { r.mutable_raw(0)->resize(kMaxMessageBytes); },
                                  {kExhausted, "MESSAGE_TOO_LARGE", "1048576", "1049"}}},
      // The message itself.
      {"TruncatedMessage", RawBytes{[](const std::string& good) { return good.substr(0, good.size() - 100); },
                                    {kInvalid, "MALFORMED_MESSAGE", "", ""}}},
      {"TruncatedInsideHeader", RawBytes{[](const std::string& good) { return good.substr(0, 9); },
                                         {kInvalid, "MALFORMED_MESSAGE", "", ""}}},
      {"NotProtobuf", RawBytes{[](const std::string&) { return std::string(64, '\xff'); },
                               {kInvalid, "MALFORMED_MESSAGE", "", ""}}},
      // Plugins that fail or throw, in the server that has loaded them.
      {"PluginPlanFails", Attend{[](R& r) { r.set_backend("plan_fails"); },
                                 {StatusCode::RESOURCE_EXHAUSTED, "PLUGIN_FAILED", "", ""}}},
      {"PluginPlanAbsurd", Attend{[](R& r) { r.set_backend("plan_absurd"); },
                                  {StatusCode::INTERNAL, "PLUGIN_INVALID_PLAN", "", ""}}},
      {"PluginEnqueueFails", Attend{[](R& r) { r.set_backend("enqueue_fails"); },
                                    {StatusCode::UNAVAILABLE, "PLUGIN_FAILED", "", ""}}},
      {"PluginEnqueueThrows",
       Attend{[](R& r) { r.set_backend("enqueue_throws"); }, {StatusCode::INTERNAL, "PLUGIN_THREW", "", ""}}},
      // Servers that must not start.
      {"PluginOfOtherAbi", Start{{"--backend-plugin=" TESSERA_PLUGIN_DIR "/tessera_plugin_other_abi.so"},
                                 1,
                                 {"tessera_plugin_other_abi.so", "ABI"}}},
      {"PluginMissing",
       Start{{"--backend-plugin=/nonexistent/plugin.so"}, 1, {"/nonexistent/plugin.so", "no such file"}}},
      {"PluginNotALibrary",
       Start{{"--backend-plugin=" TESSERA_PLUGIN_DIR "/not_a_library.so"}, 1, {"not_a_library.so"}}},
      {"PluginWithoutEntry", Start{{"--backend-plugin=" TESSERA_PLUGIN_DIR "/tessera_plugin_no_entry.so"},
                                   1,
                                   {"tessera_plugin_create"}}},
      {"PluginCreateFails", Start{{"--backend-plugin=" TESSERA_PLUGIN_DIR "/tessera_plugin_create_fails.so"},
                                  1,
                                  {"tessera_plugin_create_fails.so"}}},
      {"PluginCreateThrows",
       Start{{"--backend-plugin=" TESSERA_PLUGIN_DIR "/tessera_plugin_create_throws.so"},
             1,
             {"tessera_plugin_create_throws.so"}}},
      {"PluginNameTaken",
       Start{{"--backend-plugin=" TESSERA_PLUGIN_DIR "/tessera_plugin_name_taken.so"}, 1, {"cpu_fused"}}},
      {"PublicAddressWithoutInsecure", Start{{"--listen=0.0.0.0:0"}, 2, {"0.0.0.0:0", "--insecure"}}},
      {"MalformedAddress", Start{{"--listen=localhost"}, 2, {"localhost"}}},
      {"UnknownDefaultBackend", Start{{"--backend=tpu"}, 1, {"tpu", "cpu_fused"}}},
      {"UnknownIsa", Start{{"--cpu-isa=neon"}, 2, {"neon", "avx2"}}},
      {"UnknownServerFlag", Start{{"--lisen=127.0.0.1:0"}, 2, {"lisen"}}},
      {"NegativeLimit", Start{{"--max-message-bytes=-1"}, 2, {"max-message-bytes", "-1"}}},
      // The CLI.
      {"CliMissingFile", Cli{{"attend", "--server={server}", "--q={dir}/none.npy", "--k={dir}/k.npy",
                              "--v={dir}/v.npy", "--out={dir}/o.npy"},
                             1,
                             {"none.npy"},
                             nullptr}},
      {"CliTruncatedNpy",
       Cli{{"attend", "--server={server}", "--q={dir}/t.npy", "--k={dir}/k.npy", "--v={dir}/v.npy",
            "--out={dir}/o.npy"},
           1,
           {"t.npy", "64 elements of 4 bytes", "got 3 bytes"},
           [](const std::filesystem::path& d) {
             WriteFile(d / "t.npy",
                       NpyHeader("{'descr': '<f4', 'fortran_order': False, 'shape': (4, 2, 8), }") + "abc");
           }}},
      {"CliNotNpy",
       Cli{{"attend", "--server={server}", "--q={dir}/x.npy", "--k={dir}/k.npy", "--v={dir}/v.npy",
            "--out={dir}/o.npy"},
           1,
           {"x.npy"},
           [](const std::filesystem::path& d) { WriteFile(d / "x.npy", "PK\x03\x04 but no zip"); }}},
      {"CliBadSafetensors",
       Cli{{"attend", "--server={server}", "--input={dir}/x.safetensors", "--out={dir}/o.npy"},
           1,
           {"x.safetensors"},
           [](const std::filesystem::path& d) { WriteFile(d / "x.safetensors", std::string(8, '\xff')); }}},
      {"CliUnknownOption",
       Cli{{"attend", "--server={server}", "--cusal"}, 2, {"--cusal", "--causal"}, nullptr}},
      {"CliUnknownCommand", Cli{{"atend"}, 2, {"atend", "attend"}, nullptr}},
      {"CliUnknownBackend", Cli{{"attend", "--server={server}", "--q={dir}/q.npy", "--k={dir}/k.npy",
                                 "--v={dir}/v.npy", "--out={dir}/o.npy", "--backend=tpu"},
                                3,
                                {"tpu"},
                                nullptr}},
      {"CliNoServer", Cli{{"info", "--server=127.0.0.1:1"}, 3, {"127.0.0.1:1"}, nullptr}},
      {"CliUnwritableOutput", Cli{{"attend", "--server={server}", "--q={dir}/q.npy", "--k={dir}/k.npy",
                                   "--v={dir}/v.npy", "--out={dir}/none/o.npy"},
                                  1,
                                  {"none/o.npy"},
                                  nullptr}},
  };
  return table;
}

}  // namespace tessera::testing
