#include "backend/core/registry.h"

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "gtest/gtest.h"
#include "tests/backend/fake_backend.h"
#include "tests/backend/fake_device.h"
#include "tests/backend/status_expectations.h"
#include "tests/backend/test_problem.h"

namespace tessera {
namespace {

using testing::AbleInfo;
using testing::ErrorMetadata;
using testing::ExpectError;
using testing::FakeBackend;
using testing::FakeDevice;
using testing::TestProblem;

class RegistryTest : public ::testing::Test {
 protected:
  absl::Status Add(BackendInfo info) {
    return registry_.Add(std::make_unique<FakeBackend>(std::move(info), device_));
  }
  absl::Status Add(std::string name, int auto_priority) {
    return Add(AbleInfo(std::move(name), auto_priority));
  }

  std::string Resolved(const std::string& name) {
    const auto backend = registry_.Resolve(name, problem_.problem);
    return backend.ok() ? (*backend)->info().name : std::string(backend.status().message());
  }

  BackendRegistry registry_;
  Device& device_ = registry_.AddDevice(std::make_unique<FakeDevice>());
  TestProblem problem_;
};

TEST_F(RegistryTest, OrdersByPriorityThenName) {
  ASSERT_TRUE(Add("beta", 5).ok());
  ASSERT_TRUE(Add("last", -1).ok());
  ASSERT_TRUE(Add("alpha", 5).ok());
  ASSERT_TRUE(Add("first", 9).ok());
  std::vector<std::string> names;
  for (const Backend* backend : registry_.backends()) names.push_back(backend->info().name);
  EXPECT_EQ(names, (std::vector<std::string>{"first", "alpha", "beta", "last"}));
  EXPECT_EQ(registry_.devices(), std::vector<Device*>{&device_});
}

TEST_F(RegistryTest, RefusesBadAndTakenNames) {
  for (const char* name : {"", "auto", "9lives", "_x", "Cpu", "cpu-fused", "cpu fused", "cpü"}) {
    ExpectError(Add(name, 0), absl::StatusCode::kInvalidArgument, "BACKEND_NAME_INVALID");
  }
  ASSERT_TRUE(Add("cpu_fused2", 0).ok());
  ExpectError(Add("cpu_fused2", 1), absl::StatusCode::kAlreadyExists, "BACKEND_NAME_TAKEN");
  registry_.AddUnavailable({"gpu", absl::UnavailableError("no driver")});
  ExpectError(Add("gpu", 1), absl::StatusCode::kAlreadyExists, "BACKEND_NAME_TAKEN");
  EXPECT_EQ(registry_.backends().size(), 1u);
}

TEST_F(RegistryTest, FindNamesWhatThereIs) {
  ASSERT_TRUE(Add("a", 0).ok());
  ASSERT_TRUE(Add("b", 1).ok());
  EXPECT_EQ((*registry_.Find("a"))->info().name, "a");
  const absl::Status status = registry_.Find("c").status();
  ExpectError(status, absl::StatusCode::kNotFound, "BACKEND_NOT_FOUND");
  EXPECT_EQ(std::string(status.message()), "there is no backend \"c\"; there are: b, a");
}

TEST_F(RegistryTest, UnavailableBackendSaysWhy) {
  registry_.AddUnavailable({"gpu", absl::UnavailableError("no driver")});
  const absl::Status status = registry_.Find("gpu").status();
  EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(std::string(status.message()), "backend \"gpu\" is unavailable here: no driver");
  EXPECT_EQ(ErrorMetadata(status, "backend"), "gpu");
  EXPECT_EQ(GetErrorDetail(status)->reason, "BACKEND_UNAVAILABLE");

  registry_.AddUnavailable(
      {"blas", MakeError(absl::StatusCode::kUnavailable, "no library", {.reason = "NO_BLAS"})});
  EXPECT_EQ(GetErrorDetail(registry_.Find("blas").status())->reason, "NO_BLAS");
}

TEST_F(RegistryTest, AutoTakesTheBestThatSupports) {
  BackendInfo narrow = AbleInfo("narrow", 10);
  narrow.capabilities.max_head_dim = 4;
  ASSERT_TRUE(Add(narrow).ok());
  ASSERT_TRUE(Add("wide", 5).ok());
  ASSERT_TRUE(Add("spare", 1).ok());
  EXPECT_EQ(Resolved(""), "wide");
  EXPECT_EQ(Resolved("auto"), "wide");
  problem_.problem.head_dim_qk = 4;
  EXPECT_EQ(Resolved("auto"), "narrow");
}

TEST_F(RegistryTest, AutoNeverTakesNegativePriority) {
  ASSERT_TRUE(Add("hidden", -1).ok());
  EXPECT_EQ(Resolved("hidden"), "hidden");
  EXPECT_EQ(Resolved("auto"), "no backend supports this problem: none is registered for auto");
}

TEST_F(RegistryTest, AutoListsEveryRefusal) {
  BackendInfo narrow = AbleInfo("narrow", 10);
  narrow.capabilities.max_head_dim = 4;
  BackendInfo plain = AbleInfo("plain", 9);
  plain.capabilities.features = TESSERA_FEATURE_UNEQUAL_HEAD_DIM | TESSERA_FEATURE_LSE;
  ASSERT_TRUE(Add(narrow).ok());
  ASSERT_TRUE(Add(plain).ok());
  registry_.AddUnavailable({"gpu", absl::UnavailableError("no driver")});
  const absl::Status status = registry_.Resolve("auto", problem_.problem).status();
  ExpectError(status, absl::StatusCode::kUnimplemented, "NO_BACKEND_SUPPORTS");
  EXPECT_EQ(std::string(status.message()),
            "no backend supports this problem: "
            "narrow: head_dim 8 (head_dim_qk) is not supported; supported: 1..4; "
            "plain: feature gqa is not supported; supported: unequal_head_dim, lse; "
            "gpu: unavailable: no driver");
}

TEST_F(RegistryTest, NamedBackendGivesItsOwnRefusal) {
  BackendInfo narrow = AbleInfo("narrow", 10);
  narrow.capabilities.max_head_dim = 4;
  ASSERT_TRUE(Add(narrow).ok());
  ASSERT_TRUE(Add("wide", 5).ok());
  ExpectError(registry_.Resolve("narrow", problem_.problem).status(), absl::StatusCode::kUnimplemented,
              "HEAD_DIM_UNSUPPORTED");
  ExpectError(registry_.Resolve("none", problem_.problem).status(), absl::StatusCode::kNotFound,
              "BACKEND_NOT_FOUND");
}

// Backends may free device memory as they go.
TEST(RegistryLifetimeTest, BackendsGoBeforeDevices) {
  class Holder : public FakeBackend {
   public:
    Holder(Device& device, DeviceBuffer buffer)
        : FakeBackend(AbleInfo("holder", 0), device), buffer_(std::move(buffer)) {}

   private:
    DeviceBuffer buffer_;
  };
  BackendRegistry registry;
  Device& device = registry.AddDevice(std::make_unique<FakeDevice>());
  auto buffer = DeviceBuffer::Create(device, TESSERA_MEMORY_DEVICE, 64);
  ASSERT_TRUE(buffer.ok());
  ASSERT_TRUE(registry.Add(std::make_unique<Holder>(device, *std::move(buffer))).ok());
}  // ASan would tell of a use after free here

}  // namespace
}  // namespace tessera
