#include "client/cli/compare_bench.h"

#include <gtest/gtest.h>

namespace tessera::client {
namespace {

void AddBackend(v1::GetServerInfoResponse& info, const std::string& name, const std::string& device,
                int auto_priority, bool usable = true) {
  v1::BackendDescription& backend = *info.add_backends();
  backend.set_name(name);
  backend.set_device(device);
  backend.set_auto_priority(auto_priority);
  backend.set_usable(usable);
}

v1::GetServerInfoResponse CpuServer() {
  v1::GetServerInfoResponse info;
  AddBackend(info, "cpu_fused", "cpu", 100);
  AddBackend(info, "cpu_unfused", "cpu", 20);
  AddBackend(info, "cpu_standard", "cpu", 10);
  return info;
}

v1::GetServerInfoResponse GpuServer(bool standard_usable) {
  v1::GetServerInfoResponse info = CpuServer();
  AddBackend(info, "cuda_fused", "cuda:0", 200);
  AddBackend(info, "cuda_standard", standard_usable ? "cuda:0" : "", 50, standard_usable);
  return info;
}

TEST(DefaultStandardTest, IsOfTheDeviceThatTheFusedBackendRunsOn) {
  const v1::GetServerInfoResponse info = GpuServer(true);
  EXPECT_EQ(DefaultStandard("auto", info), "cuda_standard");
  EXPECT_EQ(DefaultStandard("cuda_fused", info), "cuda_standard");
  EXPECT_EQ(DefaultStandard("cpu_fused", info), "cpu_unfused");
  EXPECT_EQ(DefaultStandard("auto", CpuServer()), "cpu_unfused");
}

TEST(DefaultStandardTest, IsABackendThatCanRun) {
  EXPECT_EQ(DefaultStandard("cuda_fused", GpuServer(false)), "cpu_unfused");
  v1::GetServerInfoResponse info;
  AddBackend(info, "cpu_fused", "cpu", 100);
  AddBackend(info, "cpu_unfused", "", 20, false);
  AddBackend(info, "cpu_standard", "cpu", 10);
  EXPECT_EQ(DefaultStandard("auto", info), "cpu_standard");
}

}  // namespace
}  // namespace tessera::client
