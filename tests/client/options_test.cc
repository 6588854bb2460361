#include "client/cli/options.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

namespace tessera::client {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

class OptionTableTest : public testing::Test {
 protected:
  OptionTableTest() : table_("demo", "--count=N", "Shows options.") {
    table_.Section("Numbers");
    table_.Value("count", "N", &count_, "how many");
    table_.Value("scale", "X", &scale_, "factor");
    table_.Value("lens", "N,...", &lens_, "lengths");
    table_.Section("Words");
    table_.Switch("causal", &causal_, "look back only");
    table_.Choice("layout", {"packed", "bshd"}, &layout_, "how tokens lie");
    table_.Value("name", "TEXT", &name_, "any text");
  }
  std::string Error(const std::vector<std::string>& arguments) {
    return std::string(table_.Parse(arguments).message());
  }

  OptionTable table_;
  int64_t count_ = 3;
  std::optional<float> scale_;
  std::vector<int64_t> lens_;
  bool causal_ = false;
  std::string layout_ = "packed", name_;
};

TEST_F(OptionTableTest, ReadsBothSpellings) {
  ASSERT_TRUE(
      table_.Parse({"--count=7", "--scale", "0.5", "--lens=1,2,-3", "--causal", "--layout", "bshd"}).ok());
  EXPECT_EQ(count_, 7);
  EXPECT_EQ(scale_, 0.5f);
  EXPECT_THAT(lens_, ElementsAre(1, 2, -3));
  EXPECT_TRUE(causal_);
  EXPECT_EQ(layout_, "bshd");
}

TEST_F(OptionTableTest, KeepsDefaultsAndEmptyValues) {
  ASSERT_TRUE(table_.Parse({"--name=", "--lens="}).ok());
  EXPECT_EQ(count_, 3);
  EXPECT_FALSE(scale_);
  EXPECT_TRUE(lens_.empty());
}

TEST_F(OptionTableTest, ValuesMayHoldEqualsSigns) {
  ASSERT_TRUE(table_.Parse({"--name=a=b"}).ok());
  EXPECT_EQ(name_, "a=b");
}

TEST_F(OptionTableTest, SaysWhatIsWrong) {
  EXPECT_THAT(Error({"--casual"}), HasSubstr("unknown option --casual; did you mean --causal?"));
  EXPECT_THAT(Error({"--zzzzzz"}), testing::Not(HasSubstr("did you mean")));
  EXPECT_THAT(Error({"--count=many"}), HasSubstr("--count: expected an integer, got 'many'"));
  EXPECT_THAT(Error({"--scale=1.5x"}), HasSubstr("--scale: expected a number, got '1.5x'"));
  EXPECT_THAT(Error({"--lens=1,,2"}), HasSubstr("--lens: expected an integer, got ''"));
  EXPECT_THAT(Error({"--layout=bhsd"}), HasSubstr("--layout: expected packed|bshd, got 'bhsd'"));
  EXPECT_THAT(Error({"--name"}), HasSubstr("--name needs a value: --name=TEXT"));
  EXPECT_THAT(Error({"--causal=yes"}), HasSubstr("--causal takes no value"));
  EXPECT_THAT(Error({"stray"}), HasSubstr("unexpected argument 'stray'"));
}

TEST_F(OptionTableTest, RefusesARepeatedOption) {
  EXPECT_THAT(Error({"--count=1", "--count=2"}), HasSubstr("--count is given twice"));
}

TEST_F(OptionTableTest, HelpShowsSectionsAndFitsTheTerminal) {
  ASSERT_TRUE(table_.Parse({"--help", "--unknown"}).ok());
  EXPECT_TRUE(table_.help_requested());
  const std::string help = table_.Help();
  EXPECT_THAT(help, HasSubstr("Usage: tessera demo --count=N [OPTION...]"));
  EXPECT_LT(help.find("Numbers:"), help.find("--lens=N,..."));
  EXPECT_LT(help.find("Words:"), help.find("--layout=packed|bshd"));
}

TEST(DidYouMeanTest, SuggestsOnlyWhatIsNear) {
  EXPECT_EQ(DidYouMean("atend", {"attend", "explain"}, ""), "did you mean attend? ");
  EXPECT_EQ(DidYouMean("frobnicate", {"attend", "explain"}, ""), "");
  EXPECT_EQ(DidYouMean("", {"attend"}, ""), "");
}

}  // namespace
}  // namespace tessera::client
