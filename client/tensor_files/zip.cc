#include "client/tensor_files/zip.h"

#include <zlib.h>

#include <cstdint>
#include <limits>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "client/status_macros.h"
#include "client/tensor_files/byte_reader.h"

namespace tessera::client {
namespace {

// Field offsets are those of PKWARE's APPNOTE 6.3: 4.3.7 (local header), 4.3.12 (central header), 4.3.16
// (end).
constexpr uint32_t kLocalSignature = 0x04034b50;
constexpr uint32_t kCentralSignature = 0x02014b50;
constexpr uint32_t kEndSignature = 0x06054b50;
constexpr uint64_t kLocalSize = 30;
constexpr uint64_t kCentralSize = 46;
constexpr uint64_t kEndSize = 22;
constexpr uint64_t kMaxCommentSize = 65535;
constexpr uint16_t kStored = 0;
constexpr uint16_t kDeflated = 8;
constexpr uint16_t kEncryptedFlag = 1;
// Deflate cannot do better than this, so a member that claims more is lying.
constexpr uint64_t kMaxDeflateRatio = 1032;

absl::Status Malformed(const std::string& what) {
  return absl::InvalidArgumentError(absl::StrCat("not a valid .npz file: ", what));
}

struct Member {
  std::string name;
  uint16_t flags, method;
  uint32_t crc;
  uint64_t compressed_size, size, local_offset;
};

std::optional<uint64_t> FindEnd(std::string_view file) {
  if (file.size() < kEndSize) return std::nullopt;
  const ByteReader reader(file);
  const uint64_t last = file.size() - kEndSize;
  const uint64_t first = last > kMaxCommentSize ? last - kMaxCommentSize : 0;
  for (uint64_t at = last + 1; at-- > first;) {
    if (reader.Read<uint32_t>(at) == kEndSignature) return at;
  }
  return std::nullopt;
}

absl::StatusOr<Member> ParseCentralHeader(const ByteReader& reader, uint64_t& at) {
  if (reader.Read<uint32_t>(at) != kCentralSignature || !reader.Slice(at, kCentralSize)) {
    return Malformed("its directory is damaged");
  }
  Member member;
  member.flags = *reader.Read<uint16_t>(at + 8);
  member.method = *reader.Read<uint16_t>(at + 10);
  member.crc = *reader.Read<uint32_t>(at + 16);
  member.compressed_size = *reader.Read<uint32_t>(at + 20);
  member.size = *reader.Read<uint32_t>(at + 24);
  const uint64_t name_size = *reader.Read<uint16_t>(at + 28);
  const uint64_t extra_size = *reader.Read<uint16_t>(at + 30);
  const uint64_t comment_size = *reader.Read<uint16_t>(at + 32);
  member.local_offset = *reader.Read<uint32_t>(at + 42);
  const auto name = reader.Slice(at + kCentralSize, name_size);
  if (!name) return Malformed("its directory is damaged");
  member.name = std::string(*name);
  at += kCentralSize + name_size + extra_size + comment_size;
  return member;
}

// The member's bytes as they lie in the file: behind a local header, whose name and extra field have lengths
// of their own.
absl::StatusOr<std::string_view> FindData(const ByteReader& reader, const Member& member) {
  const auto name_size = reader.Read<uint16_t>(member.local_offset + 26);
  const auto extra_size = reader.Read<uint16_t>(member.local_offset + 28);
  if (reader.Read<uint32_t>(member.local_offset) != kLocalSignature || !name_size || !extra_size) {
    return Malformed(absl::StrCat("member '", member.name, "' is not where the directory says"));
  }
  const auto data =
      reader.Slice(member.local_offset + kLocalSize + *name_size + *extra_size, member.compressed_size);
  if (!data) return Malformed(absl::StrCat("member '", member.name, "' reaches past the end of the file"));
  return *data;
}

absl::StatusOr<std::string> Inflate(std::string_view data, const Member& member) {
  if (member.size / kMaxDeflateRatio > data.size()) {
    return Malformed(
        absl::StrCat("member '", member.name, "' claims ", member.size, " bytes from ", data.size()));
  }
  std::string content(member.size, '\0');
  z_stream stream{};
  if (inflateInit2(&stream, -MAX_WBITS) != Z_OK) return absl::InternalError("zlib cannot start");
  stream.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(data.data()));
  stream.avail_in = static_cast<uInt>(data.size());
  stream.next_out = reinterpret_cast<Bytef*>(content.data());
  stream.avail_out = static_cast<uInt>(content.size());
  const int code = inflate(&stream, Z_FINISH);
  const uint64_t produced = stream.total_out;
  inflateEnd(&stream);
  if (code != Z_STREAM_END || produced != member.size) {
    return Malformed(
        absl::StrCat("member '", member.name, "' does not inflate to its ", member.size, " bytes"));
  }
  return content;
}

absl::StatusOr<std::string> ReadMember(const ByteReader& reader, const Member& member) {
  if (member.flags & kEncryptedFlag)
    return Malformed(absl::StrCat("member '", member.name, "' is encrypted"));
  TESSERA_TRY_ASSIGN(const std::string_view data, FindData(reader, member));
  std::string content;
  if (member.method == kStored) {
    if (member.size != member.compressed_size) {
      return Malformed(absl::StrCat("stored member '", member.name, "' has two sizes"));
    }
    content = std::string(data);
  } else if (member.method == kDeflated) {
    TESSERA_TRY_ASSIGN(content, Inflate(data, member));
  } else {
    return Malformed(absl::StrCat("member '", member.name, "' uses compression method ", member.method,
                                  "; use numpy.savez or numpy.savez_compressed"));
  }
  const uLong crc = crc32_z(0, reinterpret_cast<const Bytef*>(content.data()), content.size());
  if (crc != member.crc) return Malformed(absl::StrCat("member '", member.name, "' fails its CRC check"));
  return content;
}

template <typename UInt>
void Put(std::string& out, UInt value) {
  for (size_t i = 0; i < sizeof(UInt); ++i) out.push_back(static_cast<char>((value >> (8 * i)) & 0xff));
}

// The fields that local and central headers share, from "version needed" to the length of the extra field.
void PutCommonFields(std::string& out, const std::string& name, uint32_t crc, uint32_t size) {
  Put<uint16_t>(out, 20);  // version needed: 2.0
  Put<uint16_t>(out, 0);   // flags
  Put<uint16_t>(out, kStored);
  Put<uint16_t>(out, 0);       // time
  Put<uint16_t>(out, 0x0021);  // date: 1980-01-01, so that equal contents give equal files
  Put<uint32_t>(out, crc);
  Put<uint32_t>(out, size);
  Put<uint32_t>(out, size);
  Put<uint16_t>(out, static_cast<uint16_t>(name.size()));
  Put<uint16_t>(out, 0);  // extra field
}

}  // namespace

absl::StatusOr<std::map<std::string, std::string>> ParseZip(std::string_view file) {
  const std::optional<uint64_t> end = FindEnd(file);
  if (!end) return Malformed("it has no ZIP directory (truncated?)");
  const ByteReader reader(file);
  const uint16_t count = *reader.Read<uint16_t>(*end + 10);
  uint64_t at = *reader.Read<uint32_t>(*end + 16);
  if (count == 0xffff || at == 0xffffffff) {
    return Malformed("ZIP64 is not supported; one request holds less than 2 GiB of tensors anyway");
  }
  std::map<std::string, std::string> members;
  uint64_t total_compressed = 0;
  for (int i = 0; i < count; ++i) {
    TESSERA_TRY_ASSIGN(const Member member, ParseCentralHeader(reader, at));
    if (member.size == 0xffffffff || member.compressed_size == 0xffffffff) {
      return Malformed(absl::StrCat("member '", member.name, "' needs ZIP64, which is not supported"));
    }
    // Members that share bytes would let a small file unfold into any amount of memory.
    total_compressed += member.compressed_size;
    if (total_compressed > file.size()) return Malformed("its members overlap");
    TESSERA_TRY_ASSIGN(std::string content, ReadMember(reader, member));
    if (!members.emplace(member.name, std::move(content)).second) {
      return Malformed(absl::StrCat("member '", member.name, "' is there twice"));
    }
  }
  return members;
}

absl::StatusOr<std::string> FormatZip(const std::map<std::string, std::string>& members) {
  std::string out, directory;
  for (const auto& [name, content] : members) {
    if (out.size() + content.size() + 2 * kMaxCommentSize > std::numeric_limits<uint32_t>::max()) {
      return absl::ResourceExhaustedError(".npz holds less than 4 GiB here; write .safetensors");
    }
    const auto crc =
        static_cast<uint32_t>(crc32_z(0, reinterpret_cast<const Bytef*>(content.data()), content.size()));
    const auto offset = static_cast<uint32_t>(out.size());
    Put(out, kLocalSignature);
    PutCommonFields(out, name, crc, static_cast<uint32_t>(content.size()));
    out += name;
    out += content;

    Put(directory, kCentralSignature);
    Put<uint16_t>(directory, 20);  // made by: 2.0, MS-DOS attributes
    PutCommonFields(directory, name, crc, static_cast<uint32_t>(content.size()));
    Put<uint16_t>(directory, 0);  // comment
    Put<uint16_t>(directory, 0);  // disk
    Put<uint16_t>(directory, 0);  // internal attributes
    Put<uint32_t>(directory, 0);  // external attributes
    Put<uint32_t>(directory, offset);
    directory += name;
  }
  const auto directory_offset = static_cast<uint32_t>(out.size());
  out += directory;
  Put(out, kEndSignature);
  Put<uint32_t>(out, 0);  // disks
  Put<uint16_t>(out, static_cast<uint16_t>(members.size()));
  Put<uint16_t>(out, static_cast<uint16_t>(members.size()));
  Put<uint32_t>(out, static_cast<uint32_t>(directory.size()));
  Put<uint32_t>(out, directory_offset);
  Put<uint16_t>(out, 0);  // comment
  return out;
}

}  // namespace tessera::client
