// Every kind of bad input in one table: each gets a precise error, and the server goes on as if nothing had
// been. The servers and the CLI are the real binaries, so a crash or a hang of theirs is seen for what it is.

#include <gtest/gtest.h>
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <filesystem>
#include <memory>
#include <string>
#include <variant>
#include <vector>

#include "google/rpc/error_details.pb.h"
#include "google/rpc/status.pb.h"
#include "grpcpp/create_channel.h"
#include "grpcpp/generic/generic_stub.h"
#include "tessera/v1/attention.grpc.pb.h"
#include "tests/integration/bad_input_cases.h"
#include "tests/integration/subprocess.h"

namespace tessera::testing {
namespace {

class BadInputTest : public ::testing::TestWithParam<BadInput> {
 protected:
  static void SetUpTestSuite() {
    ProcessResult failure;
    server_ = ServerProcess::Start(TESSERA_SERVER_BINARY,
                                   {"--max-message-bytes=" + std::to_string(kMaxMessageBytes),
                                    "--max-batch-tokens=" + std::to_string(kMaxBatchTokens),
                                    "--max-workspace-bytes=" + std::to_string(kMaxWorkspaceBytes),
                                    "--threads=2", "--backend-plugin=" TESSERA_FAILING_PLUGINS},
                                   &failure);
    ASSERT_NE(server_, nullptr) << "exit " << failure.exit_code << "\n" << failure.out << failure.err;
    grpc::ChannelArguments arguments;
    arguments.SetMaxReceiveMessageSize(-1);
    channel_ = grpc::CreateCustomChannel(server_->address(), grpc::InsecureChannelCredentials(), arguments);
    good_output_ = RunGood();
    ASSERT_FALSE(good_output_.empty());
  }
  static void TearDownTestSuite() {
    if (server_ == nullptr) return;
    server_->Signal(SIGTERM);
    EXPECT_EQ(server_->WaitForExit(), 0) << server_->Log();
    server_.reset();
    channel_.reset();
  }

  // The good request's output bytes; empty when it fails.
  static std::string RunGood() {
    grpc::ClientContext context;
    context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(30));
    v1::AttendResponse reply;
    const auto status = v1::AttentionService::NewStub(channel_)->Attend(&context, GoodRequest(), &reply);
    EXPECT_TRUE(status.ok()) << status.error_message();
    return status.ok() && reply.raw_size() == 1 ? reply.raw(0) : "";
  }

  static grpc::Status CallRaw(const std::string& method, const std::string& bytes) {
    grpc::Slice slice(bytes.data(), bytes.size());
    grpc::ByteBuffer request(&slice, 1), reply;
    grpc::ClientContext context;
    context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(60));
    grpc::CompletionQueue queue;
    grpc::GenericStub stub(channel_);
    auto call = stub.PrepareUnaryCall(&context, method, request, &queue);
    call->StartCall();
    grpc::Status status;
    call->Finish(&reply, &status, &queue);
    void* tag = nullptr;
    bool ok = false;
    queue.Next(&tag, &ok);
    return status;
  }

  static void CheckStatus(const grpc::Status& status, const Expected& error) {
    EXPECT_EQ(status.error_code(), error.code) << status.error_message();
    EXPECT_FALSE(status.error_message().empty());
    google::rpc::Status rich;
    ASSERT_TRUE(rich.ParseFromString(status.error_details())) << status.error_message();
    EXPECT_EQ(rich.code(), static_cast<int>(error.code));
    google::rpc::ErrorInfo info;
    ASSERT_GE(rich.details_size(), 1) << status.error_message();
    ASSERT_TRUE(rich.details(0).UnpackTo(&info)) << rich.details(0).type_url();
    EXPECT_EQ(info.domain(), "tessera");
    EXPECT_EQ(info.reason(), error.reason) << status.error_message();
    const auto contains = [&](const std::string& key, const std::string& part) {
      if (part.empty()) return;
      const auto found = info.metadata().find(key);
      ASSERT_NE(found, info.metadata().end()) << "no " << key << " in: " << status.error_message();
      EXPECT_NE(found->second.find(part), std::string::npos) << key << ": " << found->second;
    };
    contains("expected", error.expected);
    contains("actual", error.actual);
  }

  void Run(const Attend& act) {
    v1::AttendRequest request = GoodRequest();
    act.change(request);
    CheckStatus(CallRaw("/tessera.v1.AttentionService/Attend", request.SerializeAsString()), act.error);
    // The same request on a stream fails alone: the stream and the request behind it go on.
    if (request.ByteSizeLong() <= kMaxMessageBytes) RunOnStream(request, act.error);
  }
  void Run(const RawBytes& act) {
    const std::string bytes = act.make(GoodRequest().SerializeAsString());
    CheckStatus(CallRaw("/tessera.v1.AttentionService/Attend", bytes), act.error);
    CheckStatus(CallRaw("/tessera.v1.AttentionService/Explain", bytes), act.error);
  }
  void Run(const Cli& act) {
    const auto directory =
        std::filesystem::path(::testing::TempDir()) / ("bad_input_" + std::to_string(getpid()));
    std::filesystem::create_directories(directory);
    WriteGoodArrays(directory);
    if (act.prepare) act.prepare(directory);
    std::vector<std::string> argv = {TESSERA_CLI_BINARY};
    for (std::string argument : act.arguments) {
      for (const auto& [key, value] : {std::pair<std::string, std::string>{"{server}", server_->address()},
                                       {"{dir}", directory.string()}}) {
        if (const size_t at = argument.find(key); at != std::string::npos)
          argument.replace(at, key.size(), value);
      }
      argv.push_back(argument);
    }
    CheckProcess(RunProcess(argv), act.exit_code, act.message_parts);
    std::filesystem::remove_all(directory);
  }
  void Run(const Start& act) {
    ProcessResult failure;
    const auto server = ServerProcess::Start(TESSERA_SERVER_BINARY, act.flags, &failure);
    ASSERT_EQ(server, nullptr) << "the server started";
    // Log lines may come first; the error is the last line.
    failure.err.erase(0, failure.err.rfind('\n', failure.err.size() - 2) + 1);
    CheckProcess(failure, act.exit_code, act.message_parts);
  }

  void RunOnStream(const v1::AttendRequest& bad, const Expected& error) {
    grpc::ClientContext context;
    context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(60));
    auto stream = v1::AttentionService::NewStub(channel_)->AttendStream(&context);
    ASSERT_TRUE(stream->Write(bad));
    ASSERT_TRUE(stream->Write(GoodRequest()));
    stream->WritesDone();
    v1::AttendResponse reply;
    int good = 0, refused = 0;
    while (stream->Read(&reply)) {
      if (reply.has_status()) {
        ++refused;
        EXPECT_EQ(reply.status().code(), static_cast<int>(error.code));
        google::rpc::ErrorInfo info;
        ASSERT_GE(reply.status().details_size(), 1);
        ASSERT_TRUE(reply.status().details(0).UnpackTo(&info));
        EXPECT_EQ(info.reason(), error.reason);
        EXPECT_EQ(reply.raw_size(), 0);
      } else {
        ++good;
        EXPECT_EQ(reply.raw(0), good_output_);
      }
    }
    EXPECT_EQ(good, 1);
    EXPECT_EQ(refused, 1);
    const auto status = stream->Finish();
    EXPECT_TRUE(status.ok()) << status.error_message();
  }

  // One line on stderr that says what was wrong.
  static void CheckProcess(const ProcessResult& result, int exit_code,
                           const std::vector<std::string>& parts) {
    EXPECT_EQ(result.exit_code, exit_code) << result.out << result.err;
    for (const auto& part : parts) EXPECT_NE(result.err.find(part), std::string::npos) << result.err;
    EXPECT_EQ(std::count(result.err.begin(), result.err.end(), '\n'), 1) << result.err;
  }

  static std::unique_ptr<ServerProcess> server_;
  static std::shared_ptr<grpc::Channel> channel_;
  static std::string good_output_;
};

std::unique_ptr<ServerProcess> BadInputTest::server_;
std::shared_ptr<grpc::Channel> BadInputTest::channel_;
std::string BadInputTest::good_output_;

TEST_P(BadInputTest, GetsAPreciseErrorAndTheServerGoesOn) {
  std::visit([this](const auto& act) { Run(act); }, GetParam().act);
  ASSERT_TRUE(server_->Running()) << "the server died\n" << server_->Log();
  EXPECT_EQ(RunGood(), good_output_);
}

INSTANTIATE_TEST_SUITE_P(Table, BadInputTest, ::testing::ValuesIn(BadInputs()),
                         [](const auto& info) { return info.param.name; });

}  // namespace
}  // namespace tessera::testing
