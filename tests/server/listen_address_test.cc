#include "server/listen_address.h"

#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <fstream>
#include <string>

#include "gtest/gtest.h"
#include "server/log.h"
#include "tests/backend/status_expectations.h"

namespace tessera {
namespace {

using testing::ExpectError;

TEST(ListenAddressTest, ReadsEveryForm) {
  const auto v4 = ParseListenAddress("127.0.0.1:0");
  ASSERT_TRUE(v4.ok());
  EXPECT_EQ(v4->host, "127.0.0.1");
  EXPECT_EQ(v4->Bound(41), "127.0.0.1:41");
  const auto v6 = ParseListenAddress("[::1]:8080");
  ASSERT_TRUE(v6.ok());
  EXPECT_EQ(v6->host, "::1");
  EXPECT_EQ(v6->Bound(8080), "[::1]:8080");
  EXPECT_EQ(ParseListenAddress("unix:a/b.sock")->unix_path, "a/b.sock");
  EXPECT_EQ(ParseListenAddress("unix:///run/t.sock")->unix_path, "/run/t.sock");
}

TEST(ListenAddressTest, RefusesEverythingElse) {
  for (const std::string bad : {"", "localhost", ":80", "127.0.0.1:", "127.0.0.1:x", "127.0.0.1:65536",
                                "127.0.0.1:-1", "::1", "::1:80", "[]:80", "unix:"}) {
    ExpectError(ParseListenAddress(bad).status(), absl::StatusCode::kInvalidArgument,
                "LISTEN_ADDRESS_INVALID");
  }
  EXPECT_FALSE(ParseListenAddress("unix:" + std::string(200, 'x')).ok());
}

TEST(ListenAddressTest, KnowsWhatOtherMachinesCanReach) {
  for (const char* local : {"127.0.0.1:1", "127.9.9.9:1", "[::1]:1", "localhost:1", "unix:x"}) {
    EXPECT_TRUE(ParseListenAddress(local)->is_local()) << local;
  }
  for (const char* open : {"0.0.0.0:1", "[::]:1", "10.0.0.1:1", "example.com:1", "127.0.0.1.example.com:1",
                           "[::ffff:10.0.0.1]:1", "localhost.example.com:1"}) {
    EXPECT_FALSE(ParseListenAddress(open)->is_local()) << open;
  }
}

class UnixPathTest : public ::testing::Test {
 protected:
  UnixPathTest() {
    char directory[] = "/tmp/tessera-test-XXXXXX";
    directory_ = mkdtemp(directory);
    path_ = directory_ + "/s";
  }
  ~UnixPathTest() override {
    unlink(path_.c_str());
    rmdir(directory_.c_str());
  }
  int Listen() {
    const int fd = socket(AF_UNIX, SOCK_STREAM, 0);
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    path_.copy(address.sun_path, sizeof(address.sun_path) - 1);
    EXPECT_EQ(bind(fd, reinterpret_cast<const sockaddr*>(&address), sizeof(address)), 0);
    EXPECT_EQ(listen(fd, 1), 0);
    return fd;
  }
  std::string directory_, path_;
};

TEST_F(UnixPathTest, AcceptsAFreePath) { EXPECT_TRUE(PrepareUnixPath(path_).ok()); }

TEST_F(UnixPathTest, RemovesAStaleSocket) {
  close(Listen());
  EXPECT_EQ(access(path_.c_str(), F_OK), 0);
  EXPECT_TRUE(PrepareUnixPath(path_).ok());
  EXPECT_NE(access(path_.c_str(), F_OK), 0);
}

TEST_F(UnixPathTest, LeavesALiveSocketAlone) {
  const int fd = Listen();
  ExpectError(PrepareUnixPath(path_), absl::StatusCode::kAlreadyExists, "LISTEN_PATH_TAKEN");
  EXPECT_EQ(access(path_.c_str(), F_OK), 0);
  close(fd);
}

TEST_F(UnixPathTest, LeavesOtherFilesAlone) {
  std::ofstream(path_) << "precious";
  ExpectError(PrepareUnixPath(path_), absl::StatusCode::kAlreadyExists, "LISTEN_PATH_TAKEN");
  EXPECT_EQ(access(path_.c_str(), F_OK), 0);
}

TEST(LogTest, QuotesWhatClientsSend) {
  EXPECT_EQ(Quoted("a\"b\n\x01"), "\"a\\\"b\\n\\x01\"");
  EXPECT_LE(Quoted(std::string(10000, 'x')).size(), 300u);
}

}  // namespace
}  // namespace tessera
