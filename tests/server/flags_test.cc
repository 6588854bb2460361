#include "server/flags.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

namespace tessera {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

// Flags keep what an earlier call has set.
absl::StatusOr<CommandLine> Parse(std::vector<std::string> arguments) {
  arguments.insert(arguments.begin(), "tessera-server");
  std::vector<char*> argv;
  for (std::string& argument : arguments) argv.push_back(argument.data());
  return ParseCommandLine(static_cast<int>(argv.size()), argv.data());
}

TEST(FlagsTest, LooksForAGpuUnlessTold) {
  const auto line = Parse({});
  ASSERT_TRUE(line.ok()) << line.status();
  EXPECT_EQ(line->cuda_device, kAutoCudaDevice);
}

TEST(FlagsTest, CudaDeviceIsANumberOrAutoOrNone) {
  EXPECT_EQ(Parse({"--cuda-device=3"})->cuda_device, 3);
  EXPECT_EQ(Parse({"--cuda-device", "none"})->cuda_device, kNoCudaDevice);
  EXPECT_EQ(Parse({"--cuda-device=auto"})->cuda_device, kAutoCudaDevice);
  for (const char* bad : {"-1", "-2", "first", "Auto", "", "0x1", "1.5", "99999999999", "None", "0,1"}) {
    const auto line = Parse({std::string("--cuda-device=") + bad});
    EXPECT_TRUE(absl::IsInvalidArgument(line.status())) << bad;
    EXPECT_THAT(std::string(line.status().message()),
                AllOf(HasSubstr("--cuda-device"), HasSubstr(bad),
                      HasSubstr("expected auto, none or the number"), HasSubstr("--help")));
  }
}

TEST(FlagsTest, MetricsAndShadowVerificationAreOffUnlessAskedFor) {
  const auto off = Parse({"--cuda-device=auto"});
  ASSERT_TRUE(off.ok()) << off.status();
  EXPECT_EQ(off->server.metrics_listen, "");
  EXPECT_EQ(off->server.shadow.rate, 0);
  const auto on =
      Parse({"--metrics-listen=[::1]:9464", "--shadow-verify=0.25", "--shadow-max-bytes", "1000"});
  EXPECT_EQ(on->server.metrics_listen, "[::1]:9464");
  EXPECT_EQ(on->server.shadow.rate, 0.25);
  EXPECT_EQ(on->server.shadow.max_bytes, 1000);
  const auto bad = Parse({"--shadow-verify=some"});
  EXPECT_THAT(std::string(bad.status().message()),
              AllOf(HasSubstr("--shadow-verify"), HasSubstr("expected a number")));
}

TEST(FlagsTest, HelpNamesEveryFlagAsItIsWritten) {
  const std::string usage = Usage();
  for (const char* flag : {"--cuda-device=auto", "--cpu-isa", "--listen=127.0.0.1:50051", "--help"}) {
    EXPECT_THAT(usage, HasSubstr(std::string("  ") + flag + "\n"));
  }
}

}  // namespace
}  // namespace tessera
