#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cmath>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <limits>
#include <string>
#include <vector>

#include "client/tensor_files/float_bits.h"
#include "client/tensor_files/npy.h"
#include "client/tensor_files/safetensors.h"
#include "client/tensor_files/tensor_file.h"
#include "client/tensor_files/zip.h"
#include "tests/client/numpy_files.h"

namespace tessera::client {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

std::vector<float> Floats(const std::string& bytes) {
  std::vector<float> values(bytes.size() / sizeof(float));
  std::memcpy(values.data(), bytes.data(), bytes.size());
  return values;
}

Tensor Numbers(DType dtype, std::vector<int64_t> shape) {
  Tensor tensor{dtype, std::move(shape), {}};
  tensor.bytes.resize(static_cast<size_t>(*ByteSize(dtype, tensor.shape)));
  for (size_t i = 0; i < tensor.bytes.size(); ++i) tensor.bytes[i] = static_cast<char>(i * 37 + 1);
  return tensor;
}

// An .npy file with any header text.
std::string NpyWith(const std::string& header, const std::string& data = "") {
  std::string file("\x93NUMPY\x01\x00", 8);
  file.push_back(static_cast<char>(header.size() & 0xff));
  file.push_back(static_cast<char>(header.size() >> 8));
  return file + header + data;
}

std::string SafetensorsWith(const std::string& header, const std::string& data = "") {
  std::string file;
  for (size_t i = 0; i < 8; ++i) file.push_back(static_cast<char>((header.size() >> (8 * i)) & 0xff));
  return file + header + data;
}

class TensorFileTest : public testing::Test {
 protected:
  void SetUp() override {
    directory_ = std::filesystem::temp_directory_path() /
                 ("tessera_files_" + std::to_string(getpid()) + "_" +
                  testing::UnitTest::GetInstance()->current_test_info()->name());
    std::filesystem::create_directories(directory_);
  }
  void TearDown() override { std::filesystem::remove_all(directory_); }
  std::string Path(const std::string& name) const { return (directory_ / name).string(); }

  std::filesystem::path directory_;
};

TEST(NpyTest, ReadsWhatNumPyWrites) {
  const auto tensor = ParseNpy(NumPyArray());
  ASSERT_TRUE(tensor.ok()) << tensor.status();
  EXPECT_EQ(tensor->element, Element::kFp32);
  EXPECT_THAT(tensor->shape, ElementsAre(2, 3));
  EXPECT_THAT(Floats(tensor->bytes), ElementsAre(0.f, 0.5f, 1.f, 1.5f, 2.f, 2.5f));
}

TEST(NpyTest, WritesWhatNumPyWrites) {
  const auto stored = ParseNpy(NumPyArray());
  ASSERT_TRUE(stored.ok());
  const auto tensor = ToTensor(*stored, std::nullopt);
  ASSERT_TRUE(tensor.ok());
  EXPECT_EQ(FormatNpy(tensor->view()), NumPyArray());
}

TEST(NpyTest, ReadsScalarVectorAndEmptyShapes) {
  EXPECT_THAT(ParseNpy(NpyWith("{'descr': '<f4', 'fortran_order': False, 'shape': ()}", "1234"))->shape,
              ElementsAre());
  EXPECT_THAT(ParseNpy(NpyWith("{'descr': '<f4', 'fortran_order': False, 'shape': (1,), }", "1234"))->shape,
              ElementsAre(1));
  EXPECT_THAT(ParseNpy(NpyWith("{'descr': '<f4', 'fortran_order': False, 'shape': (0, 5), }"))->shape,
              ElementsAre(0, 5));
}

struct Malformed {
  const char* name;
  std::string file;
  const char* message;  // part of the error
};
void PrintTo(const Malformed& malformed, std::ostream* os) { *os << malformed.name; }

std::vector<Malformed> MalformedNpy() {
  const std::string plain = "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }";
  std::string version9 = NumPyArray();
  version9[6] = 9;
  std::string huge_header("\x93NUMPY\x02\x00\xff\xff\xff\x7f", 12);
  return {
      {"Empty", "", "does not begin with"},
      {"NotNpy", "hello, this is text", "does not begin with"},
      {"MagicOnly", "\x93NUMPY", "ends inside its header"},
      {"UnknownVersion", version9, "format version 9"},
      {"HeaderCutOff", NumPyArray().substr(0, 40), "ends inside its header"},
      {"DataCutOff", NumPyArray().substr(0, 140), "got 12 bytes"},
      {"TrailingBytes", NumPyArray() + "x", "got 25 bytes"},
      {"AbsurdHeaderLength", huge_header, "header of 2147483647 bytes"},
      {"NotADictionary", NpyWith("[1, 2]"), "does not begin with '{'"},
      {"NeverClosed", NpyWith("{'descr': '<f4', "), "in its header"},
      {"MissingShape", NpyWith("{'descr': '<f4', 'fortran_order': False}"), "lacks"},
      {"RepeatedKey", NpyWith("{'descr': '<f4', 'descr': '<f4'}"), "repeated key 'descr'"},
      {"TextBehind", NpyWith(plain + " x"), "text after"},
      {"NegativeExtent", NpyWith("{'descr': '<f4', 'fortran_order': False, 'shape': (-2, 3)}"),
       "not a length"},
      {"ExtentTooLarge",
       NpyWith("{'descr': '<f4', 'fortran_order': False, 'shape': (99999999999999999999,)}"), "not a length"},
      {"ShapeOverflows",
       NpyWith("{'descr': '<f4', 'fortran_order': False, 'shape': (4294967296, 4294967296)}"), "overflows"},
      {"BytesOverflow",
       NpyWith("{'descr': '<f8', 'fortran_order': False, 'shape': (4611686018427387904,)}", "12345678"),
       "expected"},
      {"Fortran", NpyWith("{'descr': '<f4', 'fortran_order': True, 'shape': (2, 3)}", std::string(24, 0)),
       "ascontiguousarray"},
      {"BigEndian", NpyWith("{'descr': '>f4', 'fortran_order': False, 'shape': (2, 3)}", std::string(24, 0)),
       "big-endian"},
      {"Record", NpyWith("{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (2,)}"), "record"},
      {"OrderNotBool", NpyWith("{'descr': '<f4', 'fortran_order': 0, 'shape': (2,)}"),
       "neither True nor False"},
  };
}

class MalformedNpyTest : public testing::TestWithParam<Malformed> {};
TEST_P(MalformedNpyTest, IsRefusedInOneLine) {
  const auto tensor = ParseNpy(GetParam().file);
  ASSERT_FALSE(tensor.ok());
  const std::string message(tensor.status().message());
  EXPECT_THAT(message, HasSubstr(GetParam().message));
  EXPECT_EQ(message.find('\n'), std::string::npos);
}
INSTANTIATE_TEST_SUITE_P(Npy, MalformedNpyTest, testing::ValuesIn(MalformedNpy()),
                         [](const auto& info) { return info.param.name; });

TEST(ZipTest, ReadsStoredMembersOfNumPy) {
  const auto members = ParseZip(NumPyArchive());
  ASSERT_TRUE(members.ok()) << members.status();
  ASSERT_EQ(members->size(), 1u);
  const auto tensor = ParseNpy(members->at("q.npy"));
  ASSERT_TRUE(tensor.ok());
  EXPECT_THAT(Floats(tensor->bytes), ElementsAre(0.f, 0.5f));
}

TEST(ZipTest, ReadsDeflatedMembersOfNumPy) {
  const auto members = ParseZip(NumPyCompressedArchive());
  ASSERT_TRUE(members.ok()) << members.status();
  const auto q = ParseNpy(members->at("q.npy"));
  ASSERT_TRUE(q.ok());
  EXPECT_EQ(q->element, Element::kFp16);
  EXPECT_THAT(q->shape, ElementsAre(4, 4));
  EXPECT_EQ(q->bytes, std::string(32, '\0'));
  const auto k = ParseNpy(members->at("k.npy"));
  ASSERT_TRUE(k.ok());
  EXPECT_EQ(k->element, Element::kBool);
  EXPECT_EQ(k->bytes, std::string("\x01\x00", 2));
}

TEST(ZipTest, RoundTrips) {
  const std::map<std::string, std::string> members{
      {"a.npy", "first"}, {"b.npy", ""}, {"c", std::string(1000, 'x')}};
  const auto file = FormatZip(members);
  ASSERT_TRUE(file.ok());
  const auto read = ParseZip(*file);
  ASSERT_TRUE(read.ok()) << read.status();
  EXPECT_EQ(*read, members);
}

// `file` with the bytes at `offset` replaced.
std::string Patched(std::string file, size_t offset, const std::string& bytes) {
  return file.replace(offset, bytes.size(), bytes);
}

std::vector<Malformed> MalformedZip() {
  const std::string stored = NumPyArchive();
  const std::string deflated = NumPyCompressedArchive();
  const size_t central = 0xbf;  // of `stored`
  const size_t deflated_central = 0xfd;
  const std::string two = *FormatZip({{"a", "1"}, {"b", "2"}});
  return {
      {"Empty", "", "no ZIP directory"},
      {"NoEnd", stored.substr(0, stored.size() - 1), "no ZIP directory"},
      {"DirectoryPastTheEnd", Patched(stored, stored.size() - 6, "\xff\xff\xff\x7f"), "directory is damaged"},
      {"MoreMembersThanEntries", Patched(stored, stored.size() - 12, "\x09"), "directory is damaged"},
      {"Zip64", Patched(stored, central + 20, "\xff\xff\xff\xff"), "ZIP64"},
      {"Encrypted", Patched(stored, central + 8, "\x01"), "encrypted"},
      {"UnknownMethod", Patched(stored, central + 10, "\x0e"), "compression method 14"},
      {"LocalHeaderElsewhere", Patched(stored, central + 42, "\x10"), "not where the directory says"},
      {"MemberPastTheEnd", Patched(Patched(stored, central + 20, "\xff\x00"), central + 24, "\xff\x00"),
       "past the end"},
      {"SizesDiffer", Patched(stored, central + 24, "\x40"), "two sizes"},
      {"WrongCrc", Patched(stored, 100, "Z"), "CRC"},
      {"DamagedStream", Patched(deflated, 60, std::string(8, '\xff')), "does not inflate"},
      {"Bomb", Patched(deflated, deflated_central + 24, "\xff\xff\xff\x7f"), "claims 2147483647 bytes"},
      {"ShorterThanClaimed", Patched(deflated, deflated_central + 24, "\xa1"), "does not inflate"},
      {"RepeatedMember", Patched(Patched(two, 0x1e, "b"), two.find("PK\x01\x02") + 46, "b"), "there twice"},
  };
}

class MalformedZipTest : public testing::TestWithParam<Malformed> {};
TEST_P(MalformedZipTest, IsRefused) {
  const auto members = ParseZip(GetParam().file);
  ASSERT_FALSE(members.ok());
  EXPECT_THAT(std::string(members.status().message()), HasSubstr(GetParam().message));
}
INSTANTIATE_TEST_SUITE_P(Zip, MalformedZipTest, testing::ValuesIn(MalformedZip()),
                         [](const auto& info) { return info.param.name; });

TEST(SafetensorsTest, ReadsMetadataPaddingAndUnknownTypes) {
  const auto tensors = ParseSafetensors(SafetensorsWith(
      R"({"__metadata__":{"made":"by hand"},"q":{"dtype":"BF16","shape":[1,2],"data_offsets":[0,4]},)"
      R"("ids":{"dtype":"I64","shape":[1],"data_offsets":[4,12]}}   )",
      "abcd12345678"));
  ASSERT_TRUE(tensors.ok()) << tensors.status();
  ASSERT_EQ(tensors->size(), 2u);
  EXPECT_EQ(tensors->at("q").element, Element::kBf16);
  EXPECT_EQ(tensors->at("q").bytes, "abcd");
  EXPECT_EQ(tensors->at("ids").element, Element::kUnsupported);
}

std::vector<Malformed> MalformedSafetensors() {
  const auto one = [](const std::string& dtype, const std::string& shape, const std::string& offsets) {
    return SafetensorsWith(
        R"({"q":{"dtype":)" + dtype + R"(,"shape":)" + shape + R"(,"data_offsets":)" + offsets + "}}",
        "12345678");
  };
  const auto two = [](const std::string& first, const std::string& second) {
    return SafetensorsWith(R"({"a":{"dtype":"U8","shape":[4],"data_offsets":)" + first +
                               R"(},"b":{"dtype":"U8","shape":[4],"data_offsets":)" + second + "}}",
                           "12345678");
  };
  return {
      {"Empty", "", "it has 0 bytes"},
      {"SevenBytes", "1234567", "it has 7 bytes"},
      {"HeaderPastTheEnd", std::string("\xff\0\0\0\0\0\0\0{}", 10), "header of 255 bytes in a file of 10"},
      {"AbsurdHeaderLength", std::string(8, '\xff') + "{}", "at most 100000000"},
      {"NotJson", SafetensorsWith("{not json}"), "not JSON"},
      {"NotUtf8", SafetensorsWith("{\"\xff\":1}"), "not JSON"},
      {"NotAnObject", SafetensorsWith("[]"), "not a JSON object"},
      {"EntryNotAnObject", SafetensorsWith(R"({"q":3})"), "not described by an object"},
      {"NoDtype", SafetensorsWith(R"({"q":{"shape":[1],"data_offsets":[0,1]}})", "1"), "has no dtype"},
      {"DtypeNotAString", one("3", "[2]", "[0,8]"), "has no dtype"},
      {"ShapeNegative", one("\"F32\"", "[-2]", "[0,8]"), "non-negative integers"},
      {"ShapeFraction", one("\"F32\"", "[2.0]", "[0,8]"), "non-negative integers"},
      {"ShapeTooLarge", one("\"F32\"", "[18446744073709551615]", "[0,8]"), "non-negative integers"},
      {"ShapeOverflows", one("\"F32\"", "[4294967296,4294967296]", "[0,8]"), "got 8 bytes"},
      {"ShapeDisagrees", one("\"F32\"", "[3]", "[0,8]"), "got 8 bytes"},
      {"OneOffset", one("\"F32\"", "[2]", "[0]"), "data_offsets"},
      {"OffsetsSwapped", one("\"F32\"", "[2]", "[8,0]"), "lies at [8, 0)"},
      {"OffsetPastTheEnd", one("\"F32\"", "[2]", "[8,16]"), "of 8 bytes"},
      {"Overlap", two("[0,4]", "[2,6]"), "overlap"},
      {"Same", two("[0,4]", "[0,4]"), "overlap"},
      {"Gap", SafetensorsWith(R"({"a":{"dtype":"U8","shape":[4],"data_offsets":[4,8]}})", "12345678"),
       "a gap"},
      {"TrailingBytes", one("\"U8\"", "[4]", "[0,4]"), "4 bytes after the last tensor"},
      {"RepeatedName",
       SafetensorsWith(R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},)"
                       R"("a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}})",
                       "1"),
       "there twice"},
      {"DeeplyNested", SafetensorsWith(std::string(100000, '[')), "not JSON"},
  };
}

class MalformedSafetensorsTest : public testing::TestWithParam<Malformed> {};
TEST_P(MalformedSafetensorsTest, IsRefused) {
  const auto tensors = ParseSafetensors(GetParam().file);
  ASSERT_FALSE(tensors.ok());
  EXPECT_THAT(std::string(tensors.status().message()), HasSubstr(GetParam().message));
}
INSTANTIATE_TEST_SUITE_P(Safetensors, MalformedSafetensorsTest, testing::ValuesIn(MalformedSafetensors()),
                         [](const auto& info) { return info.param.name; });

TEST_F(TensorFileTest, RoundTripsEveryFormatAndType) {
  for (const char* extension : {".npy", ".npz", ".safetensors"}) {
    for (DType dtype : {v1::DATA_TYPE_FP32, v1::DATA_TYPE_FP16, v1::DATA_TYPE_BF16, v1::DATA_TYPE_FP8_E4M3,
                        v1::DATA_TYPE_BOOL}) {
      for (const std::vector<int64_t>& shape : {std::vector<int64_t>{3, 2, 5}, {7}, {0, 4}}) {
        const Tensor written = Numbers(dtype, shape);
        const std::string path = Path(std::string("round_trip") + extension);
        ASSERT_TRUE(WriteTensorFile(path, {{"output", written.view()}}).ok());
        const auto read = ReadTensorFile(path);
        ASSERT_TRUE(read.ok()) << path << read.status();
        const auto tensor = ToTensor(read->begin()->second, std::nullopt);
        ASSERT_TRUE(tensor.ok()) << tensor.status();
        EXPECT_EQ(tensor->dtype, dtype) << path;
        EXPECT_EQ(tensor->shape, shape) << path;
        EXPECT_EQ(tensor->bytes, written.bytes) << path;
      }
    }
  }
}

TEST_F(TensorFileTest, KeepsNames) {
  const Tensor a = Numbers(v1::DATA_TYPE_FP32, {2}), b = Numbers(v1::DATA_TYPE_FP16, {3, 1});
  for (const char* extension : {".npz", ".safetensors"}) {
    const std::string path = Path(std::string("names") + extension);
    ASSERT_TRUE(WriteTensorFile(path, {{"output", a.view()}, {"lse", b.view()}}).ok());
    const auto read = ReadTensorFile(path);
    ASSERT_TRUE(read.ok()) << read.status();
    EXPECT_EQ(read->at("output").bytes, a.bytes);
    EXPECT_EQ(read->at("lse").bytes, b.bytes);
  }
}

TEST_F(TensorFileTest, WritesAllOrNothing) {
  const Tensor tensor = Numbers(v1::DATA_TYPE_FP32, {2});
  std::ofstream(Path("old.npy")) << "kept";
  std::filesystem::create_directories(directory_ / "directory.npy");
  EXPECT_FALSE(WriteTensorFile(Path("directory.npy"), {{"", tensor.view()}}).ok());
  EXPECT_FALSE(WriteTensorFile(Path("missing/old.npy"), {{"", tensor.view()}}).ok());
  EXPECT_FALSE(WriteTensorFile(Path("old.npy"), {{"a", tensor.view()}, {"b", tensor.view()}}).ok());
  std::string content;
  std::getline(std::ifstream(Path("old.npy")), content);
  EXPECT_EQ(content, "kept");
  for (const auto& entry : std::filesystem::directory_iterator(directory_)) {
    EXPECT_THAT(entry.path().string(), testing::Not(HasSubstr(".tmp")));
  }
}

TEST_F(TensorFileTest, NamesThePathInErrors) {
  const std::string missing = Path("missing.npy");
  EXPECT_THAT(std::string(ReadTensorFile(missing).status().message()), HasSubstr(missing + ": cannot open"));
  EXPECT_THAT(std::string(ReadTensorFile("tensor.bin").status().message()),
              HasSubstr(".npy, .npz or .safetensors"));
  std::filesystem::create_directories(directory_ / "d.npy");
  EXPECT_THAT(std::string(ReadTensorFile(Path("d.npy")).status().message()), HasSubstr("not a regular file"));
  const auto archive = FormatZip({{"q.npy", "rubbish"}});
  std::ofstream(Path("bad.npz")) << *archive;
  EXPECT_THAT(std::string(ReadTensorFile(Path("bad.npz")).status().message()), HasSubstr("member 'q.npy'"));
}

TEST(StoredTensorTest, NeedsADtypeForAmbiguousTypes) {
  const StoredTensor bits{Element::kUint16, "<u2", {1}, "ab"};
  EXPECT_THAT(std::string(ToTensor(bits, std::nullopt).status().message()), HasSubstr("--dtype=bf16"));
  const auto tensor = ToTensor(bits, v1::DATA_TYPE_BF16);
  ASSERT_TRUE(tensor.ok());
  EXPECT_EQ(tensor->bytes, "ab");
  EXPECT_FALSE(ToTensor(bits, v1::DATA_TYPE_FP32).ok());
  EXPECT_FALSE(ToTensor({Element::kBool, "|b1", {1}, "a"}, v1::DATA_TYPE_FP32).ok());
  EXPECT_THAT(
      std::string(ToTensor({Element::kUnsupported, "I64", {1}, "12345678"}, std::nullopt).status().message()),
      HasSubstr("'I64'"));
}

TEST(StoredTensorTest, ConvertsFloatingTypes) {
  const double values[] = {1.0, -2.5};
  const StoredTensor doubles{
      Element::kFp64, "<f8", {2}, std::string(reinterpret_cast<const char*>(values), 16)};
  EXPECT_THAT(std::string(ToTensor(doubles, std::nullopt).status().message()), HasSubstr("--dtype=fp32"));
  const auto fp32 = ToTensor(doubles, v1::DATA_TYPE_FP32);
  ASSERT_TRUE(fp32.ok());
  EXPECT_THAT(Floats(fp32->bytes), ElementsAre(1.f, -2.5f));
  const auto bf16 = ToTensor(doubles, v1::DATA_TYPE_BF16);
  ASSERT_TRUE(bf16.ok());
  EXPECT_EQ(bf16->bytes, std::string("\x80\x3f\x20\xc0", 4));
}

TEST(FloatBitsTest, EveryFp16SurvivesARoundTrip) {
  for (uint32_t bits = 0; bits < 0x10000; ++bits) {
    const float value = Fp16ToFloat(static_cast<uint16_t>(bits));
    if (std::isnan(value)) {
      EXPECT_TRUE(std::isnan(Fp16ToFloat(FloatToFp16(value))));
    } else {
      EXPECT_EQ(FloatToFp16(value), bits);
    }
  }
}

TEST(FloatBitsTest, EveryBf16SurvivesARoundTrip) {
  for (uint32_t bits = 0; bits < 0x10000; ++bits) {
    const float value = Bf16ToFloat(static_cast<uint16_t>(bits));
    if (std::isnan(value)) {
      EXPECT_TRUE(std::isnan(Bf16ToFloat(FloatToBf16(value))));
    } else {
      EXPECT_EQ(FloatToBf16(value), bits);
    }
  }
}

TEST(FloatBitsTest, RoundsToNearestEven) {
  EXPECT_EQ(Fp16ToFloat(FloatToFp16(1 + 0x1p-11f)), 1.f);          // halfway: to even
  EXPECT_EQ(Fp16ToFloat(FloatToFp16(1 + 0x3p-11f)), 1 + 0x1p-9f);  // halfway: to even
  EXPECT_EQ(Fp16ToFloat(FloatToFp16(65519.f)), 65504.f);
  EXPECT_TRUE(std::isinf(Fp16ToFloat(FloatToFp16(65520.f))));
  EXPECT_EQ(Fp16ToFloat(FloatToFp16(0x1p-25f)), 0.f);  // halfway to the smallest subnormal
  EXPECT_EQ(Fp16ToFloat(FloatToFp16(0x1.8p-25f)), 0x1p-24f);
  EXPECT_EQ(Bf16ToFloat(FloatToBf16(1 + 0x1p-8f)), 1.f);
  EXPECT_EQ(Bf16ToFloat(FloatToBf16(1 + 0x3p-8f)), 1 + 0x1p-6f);
  EXPECT_TRUE(std::isinf(Bf16ToFloat(FloatToBf16(std::numeric_limits<float>::max()))));
}

}  // namespace
}  // namespace tessera::client
