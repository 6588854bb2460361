// Every way a plugin can fail to load: its own reason, and a message that says what was expected and found.
#include "backend/core/plugin_loader.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/plugins/plugin_test_support.h"

namespace tessera {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

struct LoadFailure {
  std::string name;
  std::string file;
  absl::StatusCode code;
  std::string reason;
  std::vector<std::string> message_parts;  // besides the path
};

class LoadFailureTest : public ::testing::TestWithParam<LoadFailure> {};

TEST_P(LoadFailureTest, NamesReasonPathAndCause) {
  const LoadFailure& expected = GetParam();
  const LoadedPlugin plugin(expected.file);
  EXPECT_EQ(plugin.status.code(), expected.code) << plugin.status;
  EXPECT_EQ(ReasonOf(plugin.status), expected.reason) << plugin.status;
  const std::string message(plugin.status.message());
  EXPECT_THAT(message, HasSubstr(PluginPath(expected.file)));
  for (const std::string& part : expected.message_parts) EXPECT_THAT(message, HasSubstr(part));
  EXPECT_TRUE(plugin.registry.backends().empty()) << "a failed load must leave nothing behind";
  EXPECT_TRUE(plugin.registry.devices().empty());
}

const LoadFailure kLoadFailures[] = {
    {"no_such_file", "absent.so", absl::StatusCode::kNotFound, "PLUGIN_NOT_FOUND", {"no such file"}},
    {"a_text_file",
     "not_a_library.so",
     absl::StatusCode::kFailedPrecondition,
     "PLUGIN_NOT_LOADABLE",
     {"cannot be loaded as a shared library"}},
    {"a_directory", ".", absl::StatusCode::kFailedPrecondition, "PLUGIN_NOT_LOADABLE", {"cannot be loaded"}},
    {"no_entry",
     "tessera_plugin_no_entry.so",
     absl::StatusCode::kFailedPrecondition,
     "PLUGIN_NO_ENTRY",
     {"does not export \"tessera_plugin_create\""}},
    {"other_abi",
     "tessera_plugin_other_abi.so",
     absl::StatusCode::kFailedPrecondition,
     "PLUGIN_ABI_MISMATCH",
     {"built for plugin ABI 0.999", "expected 0.4"}},
    {"create_fails",
     "tessera_plugin_create_fails.so",
     absl::StatusCode::kUnavailable,
     "PLUGIN_CREATE_FAILED",
     {"tessera_plugin_create: no accelerator in slot 3?..."}},
    {"create_throws",
     "tessera_plugin_create_throws.so",
     absl::StatusCode::kInternal,
     "PLUGIN_CREATE_THREW",
     {"tessera_plugin_create threw a C++ exception", "the driver is too old"}},
    {"function_missing",
     "tessera_plugin_missing_function.so",
     absl::StatusCode::kFailedPrecondition,
     "PLUGIN_INVALID_TABLE",
     {"backend.enqueue: expected a pointer, got NULL"}},
    {"no_dtypes",
     "tessera_plugin_no_dtypes.so",
     absl::StatusCode::kFailedPrecondition,
     "PLUGIN_INVALID_TABLE",
     {"capabilities.input_dtypes: expected a dtype, got none"}},
    {"incomplete_device",
     "tessera_plugin_incomplete_device.so",
     absl::StatusCode::kFailedPrecondition,
     "PLUGIN_INVALID_TABLE",
     {"device.info: expected a pointer, got NULL"}},
    {"bad_name",
     "tessera_plugin_Bad-Name.so",
     absl::StatusCode::kFailedPrecondition,
     "PLUGIN_INVALID_TABLE",
     {"backend.name: expected [a-z][a-z0-9_]*", "got \"Bad-Name\""}},
};

INSTANTIATE_TEST_SUITE_P(All, LoadFailureTest, ::testing::ValuesIn(kLoadFailures),
                         [](const auto& param) { return param.param.name; });

TEST(PluginLoaderTest, RefusesATakenBackendName) {
  LoadedPlugin plugin("tessera_plugin_name_taken.so");  // called cpu_fused, and free until now
  ASSERT_TRUE(plugin.status.ok()) << plugin.status;
  const std::string path = PluginPath("tessera_plugin_name_taken.so");
  const absl::Status second = LoadPlugin(path, plugin.host_device, SerialHost(), plugin.registry);
  EXPECT_EQ(second.code(), absl::StatusCode::kAlreadyExists);
  EXPECT_EQ(ReasonOf(second), "PLUGIN_NAME_TAKEN");
  EXPECT_THAT(std::string(second.message()),
              AllOf(HasSubstr(path), HasSubstr("there is a backend named \"cpu_fused\" already")));
  EXPECT_EQ(plugin.registry.backends().size(), 1u);
}

TEST(PluginLoaderTest, RefusesATakenDeviceName) {
  LoadedPlugin plugin("tessera_plugin_fenced.so");
  ASSERT_TRUE(plugin.status.ok()) << plugin.status;
  const absl::Status second =
      LoadPlugin(PluginPath("tessera_plugin_fenced.so"), plugin.host_device, SerialHost(), plugin.registry);
  EXPECT_EQ(ReasonOf(second), "PLUGIN_NAME_TAKEN");
  EXPECT_THAT(std::string(second.message()), HasSubstr("there is a device named \"fenced:0\" already"));
  EXPECT_EQ(plugin.registry.devices().size(), 1u);
}

TEST(PluginLoaderTest, TakesABareFileNameAsAPathNotASearch) {
  StubDevice device;
  BackendRegistry registry;
  // dlopen("libc.so.6") would succeed by searching the system's library path.
  const absl::Status status = LoadPlugin("libc.so.6", device, SerialHost(), registry);
  EXPECT_EQ(ReasonOf(status), "PLUGIN_NOT_FOUND") << status;
}

TEST(PluginLoaderTest, LoadsSeveralPluginsIntoOneRegistry) {
  LoadedPlugin plugin("tessera_plugin_null.so");
  ASSERT_TRUE(plugin.status.ok()) << plugin.status;
  const absl::Status second = LoadPlugin(PluginPath("tessera_plugin_newer_tables.so"), plugin.host_device,
                                         SerialHost(), plugin.registry);
  ASSERT_TRUE(second.ok()) << second;
  EXPECT_TRUE(plugin.registry.Find("null").ok());
  EXPECT_TRUE(plugin.registry.Find("newer_tables").ok());
}

}  // namespace
}  // namespace tessera
