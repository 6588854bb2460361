// The C++ helper for plugin authors, tessera/backend.hpp, through the C functions that its macro exports.
#include <gtest/gtest.h>

#include <array>
#include <cmath>
#include <limits>

#include "tessera/backend.hpp"

namespace {

using tessera::plugin::Error;

// Does what the head count of the problem says.
enum Behaviour : int32_t { kWork = 1, kThrowError, kThrowBadAlloc, kThrowUnknown, kThrowInBody };

class TestBackend : public tessera::plugin::Backend {
 public:
  explicit TestBackend(const tessera_host& host) : Backend(host) { ++live; }
  ~TestBackend() override { --live; }

  tessera::plugin::Description Describe() const override { return {"helper_test", "1.2", "for this test"}; }

  void Supports(const tessera_attention_problem& problem) const override {
    if (problem.softcap > 0) throw Error(TESSERA_UNIMPLEMENTED, "softcap is not supported");
  }

  void Plan(const tessera_attention_problem& problem, tessera_plan& plan) const override {
    if (problem.num_q_heads == kThrowBadAlloc) throw std::bad_alloc();
    plan.tile_q = 16;
    plan.materialises_scores = 1;
  }

  void ModelTraffic(const tessera_plan& plan, const tessera_attention_problem& problem,
                    tessera_traffic& traffic) const override {
    if (problem.num_q_heads == kThrowError) throw Error(TESSERA_OUT_OF_RANGE, "no model");
    traffic.read_bytes = plan.tile_q;
    traffic.write_bytes = 123;
  }

  void Enqueue(const tessera_plan&, const tessera_attention_problem& problem, void* workspace,
               tessera_stream* stream) override {
    if (problem.num_q_heads == kThrowError) throw Error(TESSERA_UNAVAILABLE, "the device is gone");
    if (problem.num_q_heads == kThrowUnknown) throw 42;
    ParallelFor(stream, 10, [&](int64_t task, int worker) {
      if (problem.num_q_heads == kThrowInBody && task == 3) throw std::runtime_error("task 3");
      static_cast<int*>(workspace)[task] = worker + 1;
    });
  }

  static inline int live = 0;
};

const tessera_host kHost = {
    sizeof(tessera_host), TESSERA_ABI_VERSION,
    [](tessera_stream*, int64_t num_tasks, void (*body)(void*, int64_t, int32_t), void* context) {
      for (int64_t task = 0; task < num_tasks; ++task) body(context, task, 0);
    },
    [](tessera_stream*) -> int32_t { return 1; }};

}  // namespace

TESSERA_EXPORT_BACKEND(TestBackend)

namespace {

class PluginHelperTest : public ::testing::Test {
 protected:
  void SetUp() override {
    plugin_.struct_size = sizeof(plugin_);
    ASSERT_EQ(tessera_plugin_create(&kHost, &plugin_, &message_), TESSERA_OK) << text_.data();
    problem_.num_q_heads = kWork;
  }
  void TearDown() override {
    plugin_.destroy(table().self);
    EXPECT_EQ(TestBackend::live, 0);
  }

  const tessera_backend_table& table() const { return *plugin_.backend; }
  tessera_code Enqueue() {
    return table().enqueue(table().self, &plan_, &problem_, results_.data(), nullptr, &message_);
  }

  std::array<char, 64> text_{};
  tessera_message message_{text_.data(), text_.size()};
  tessera_plugin plugin_{};
  tessera_attention_problem problem_{};
  tessera_plan plan_{};
  std::array<int, 10> results_{};
};

TEST_F(PluginHelperTest, FillsTheTables) {
  EXPECT_EQ(tessera_plugin_abi(), TESSERA_ABI_VERSION);
  EXPECT_EQ(plugin_.abi_version, TESSERA_ABI_VERSION);
  EXPECT_STREQ(plugin_.name, "helper_test");
  EXPECT_STREQ(plugin_.version, "1.2");
  EXPECT_EQ(plugin_.device, nullptr);
  EXPECT_STREQ(table().name, "helper_test");
  EXPECT_EQ(table().struct_size, sizeof(tessera_backend_table));
  EXPECT_EQ(table().capabilities->max_head_dim, 256);
  EXPECT_EQ(TestBackend::live, 1);
}

TEST_F(PluginHelperTest, RunsEveryTask) {
  EXPECT_EQ(Enqueue(), TESSERA_OK);
  for (const int result : results_) EXPECT_EQ(result, 1);
}

TEST_F(PluginHelperTest, WritesAPlanNoFurtherThanItsStructSize) {
  plan_.struct_size = offsetof(tessera_plan, materialises_scores);
  plan_.materialises_scores = 7;
  EXPECT_EQ(table().plan(table().self, &problem_, &plan_, &message_), TESSERA_OK);
  EXPECT_EQ(plan_.tile_q, 16);
  EXPECT_EQ(plan_.materialises_scores, 7);
  EXPECT_EQ(plan_.struct_size, offsetof(tessera_plan, materialises_scores));
}

TEST_F(PluginHelperTest, ModelsTrafficNoFurtherThanItsStructSize) {
  plan_.tile_q = 16;
  tessera_traffic traffic{offsetof(tessera_traffic, write_bytes), 1, 2};
  const auto model = [&] {
    return table().model_traffic(table().self, &plan_, &problem_, &traffic, &message_);
  };
  EXPECT_EQ(model(), TESSERA_OK);
  EXPECT_EQ(traffic.read_bytes, 16);
  EXPECT_EQ(traffic.write_bytes, 2);
  EXPECT_EQ(traffic.struct_size, offsetof(tessera_traffic, write_bytes));
  problem_.num_q_heads = kThrowError;
  EXPECT_EQ(model(), TESSERA_OUT_OF_RANGE);
  EXPECT_STREQ(text_.data(), "no model");
}

TEST_F(PluginHelperTest, TurnsAnErrorIntoItsCodeAndMessage) {
  problem_.num_q_heads = kThrowError;
  EXPECT_EQ(Enqueue(), TESSERA_UNAVAILABLE);
  EXPECT_STREQ(text_.data(), "the device is gone");
}

TEST_F(PluginHelperTest, TurnsARefusalIntoUnimplemented) {
  problem_.softcap = 30;
  EXPECT_EQ(table().supports(table().self, &problem_, &message_), TESSERA_UNIMPLEMENTED);
  EXPECT_STREQ(text_.data(), "softcap is not supported");
}

TEST_F(PluginHelperTest, TurnsBadAllocIntoResourceExhausted) {
  problem_.num_q_heads = kThrowBadAlloc;
  EXPECT_EQ(table().plan(table().self, &problem_, &plan_, &message_), TESSERA_RESOURCE_EXHAUSTED);
}

TEST_F(PluginHelperTest, TurnsAnythingElseIntoInternal) {
  problem_.num_q_heads = kThrowUnknown;
  EXPECT_EQ(Enqueue(), TESSERA_INTERNAL);
}

TEST_F(PluginHelperTest, CarriesAnExceptionOutOfAParallelBody) {
  problem_.num_q_heads = kThrowInBody;
  EXPECT_EQ(Enqueue(), TESSERA_INTERNAL);
  EXPECT_STREQ(text_.data(), "task 3");
  EXPECT_EQ(results_[4], 0) << "tasks after a failure are skipped";
}

TEST_F(PluginHelperTest, CutsAMessageThatDoesNotFit) {
  problem_.num_q_heads = kThrowError;
  message_.capacity = 8;
  EXPECT_EQ(Enqueue(), TESSERA_UNAVAILABLE);
  EXPECT_STREQ(text_.data(), "the dev");
}

TEST(PluginHelperCreateTest, RefusesAServerWithShorterStructs) {
  tessera_plugin plugin{};
  plugin.struct_size = sizeof(plugin) - 8;
  EXPECT_EQ(tessera_plugin_create(&kHost, &plugin, nullptr), TESSERA_FAILED_PRECONDITION);
  EXPECT_EQ(plugin.backend, nullptr);
}

TEST(ElementConversionTest, EveryHalfSurvivesARoundTrip) {
  for (uint32_t bits = 0; bits <= 0xffff; ++bits) {
    const auto half = static_cast<uint16_t>(bits);
    const float value = tessera::plugin::HalfToFloat(half);
    const uint16_t back = tessera::plugin::FloatToHalf(value);
    if (std::isnan(value)) {
      EXPECT_TRUE(std::isnan(tessera::plugin::HalfToFloat(back))) << bits;
    } else {
      EXPECT_EQ(back, half) << bits;
    }
  }
}

TEST(ElementConversionTest, HalvesAreWhatIeee754Says) {
  using tessera::plugin::HalfToFloat;
  EXPECT_EQ(HalfToFloat(0x3c00), 1.0f);
  EXPECT_EQ(HalfToFloat(0xc500), -5.0f);
  EXPECT_EQ(HalfToFloat(0x7bff), 65504.0f);
  EXPECT_EQ(HalfToFloat(0x0001), std::ldexp(1.0f, -24));
  EXPECT_EQ(HalfToFloat(0x7c00), std::numeric_limits<float>::infinity());
  EXPECT_TRUE(std::signbit(HalfToFloat(0x8000)));
}

TEST(ElementConversionTest, RoundsToTheNearestHalfAndTiesToEven) {
  using tessera::plugin::FloatToHalf;
  EXPECT_EQ(FloatToHalf(1.0f + std::ldexp(1.0f, -11)), 0x3c00);      // halfway, down to even
  EXPECT_EQ(FloatToHalf(1.0f + 3 * std::ldexp(1.0f, -11)), 0x3c02);  // halfway, up to even
  EXPECT_EQ(FloatToHalf(65519.0f), 0x7bff);
  EXPECT_EQ(FloatToHalf(65520.0f), 0x7c00);
  EXPECT_EQ(FloatToHalf(std::ldexp(1.0f, -25)), 0x0000);  // halfway to the least subnormal
  EXPECT_EQ(FloatToHalf(3 * std::ldexp(1.0f, -25)), 0x0002);
}

TEST(ElementConversionTest, RoundsToTheNearestBFloat16AndTiesToEven) {
  using tessera::plugin::FloatToBFloat16;
  EXPECT_EQ(FloatToBFloat16(1.0f), 0x3f80);
  EXPECT_EQ(FloatToBFloat16(1.0f + std::ldexp(1.0f, -8)), 0x3f80);
  EXPECT_EQ(FloatToBFloat16(1.0f + 3 * std::ldexp(1.0f, -8)), 0x3f82);
  EXPECT_EQ(FloatToBFloat16(std::numeric_limits<float>::infinity()), 0x7f80);
  EXPECT_EQ(FloatToBFloat16(std::numeric_limits<float>::max()), 0x7f80);
  EXPECT_TRUE(std::isnan(
      tessera::plugin::BFloat16ToFloat(FloatToBFloat16(std::numeric_limits<float>::signaling_NaN()))));
}

TEST(VisibleKeysTest, ClampsTheWindowToTheSequence) {
  tessera_sequence sequence{};
  sequence.kv_len = 10;
  sequence.diagonal_offset = 4;
  sequence.window_left = 2;
  sequence.window_right = 1;
  const auto keys = [&](int64_t i) {
    const auto range = tessera::plugin::VisibleKeys(sequence, i);
    return std::array<int64_t, 2>{range.begin, range.end};
  };
  EXPECT_EQ(keys(0), (std::array<int64_t, 2>{2, 6}));
  EXPECT_EQ(keys(5), (std::array<int64_t, 2>{7, 10}));
  EXPECT_EQ(keys(20), (std::array<int64_t, 2>{10, 10}));
  sequence.diagonal_offset = -5;
  EXPECT_EQ(keys(0), (std::array<int64_t, 2>{0, 0}));
  sequence.window_left = sequence.window_right = -1;
  EXPECT_EQ(keys(0), (std::array<int64_t, 2>{0, 10}));
}

}  // namespace
