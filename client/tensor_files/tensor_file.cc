#include "client/tensor_files/tensor_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "client/status_macros.h"
#include "client/tensor_files/npy.h"
#include "client/tensor_files/safetensors.h"
#include "client/tensor_files/zip.h"

namespace tessera::client {
namespace {

class FileDescriptor {
 public:
  explicit FileDescriptor(int fd) : fd_(fd) {}
  FileDescriptor(const FileDescriptor&) = delete;
  FileDescriptor& operator=(const FileDescriptor&) = delete;
  ~FileDescriptor() { Close(); }

  int get() const { return fd_; }
  // 0, or -1 and errno: some file systems report a failed write only here.
  int Close() { return fd_ < 0 ? 0 : close(std::exchange(fd_, -1)); }

 private:
  int fd_;
};

absl::Status SystemError(const std::string& what, int error) {
  const std::string message = absl::StrCat(what, ": ", std::strerror(error));
  return error == ENOENT ? absl::NotFoundError(message) : absl::UnknownError(message);
}

absl::StatusOr<std::string> ReadBytes(const std::string& path) {
  FileDescriptor file(open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (file.get() < 0) return SystemError("cannot open", errno);
  struct stat info;
  if (fstat(file.get(), &info) != 0) return SystemError("cannot read", errno);
  if (!S_ISREG(info.st_mode)) return absl::InvalidArgumentError("is not a regular file");
  std::string bytes(static_cast<size_t>(info.st_size), '\0');
  size_t done = 0;
  while (done < bytes.size()) {
    const ssize_t got = read(file.get(), bytes.data() + done, bytes.size() - done);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return SystemError("cannot read", errno);
    if (got == 0) return absl::UnknownError("became shorter while it was read");
    done += static_cast<size_t>(got);
  }
  return bytes;
}

absl::Status WriteBytes(int fd, const std::string& bytes) {
  size_t done = 0;
  while (done < bytes.size()) {
    const ssize_t wrote = write(fd, bytes.data() + done, bytes.size() - done);
    if (wrote < 0 && errno == EINTR) continue;
    if (wrote < 0) return SystemError("cannot write", errno);
    done += static_cast<size_t>(wrote);
  }
  return absl::OkStatus();
}

absl::Status WriteAtomically(const std::string& path, const std::string& bytes) {
  const std::string temporary = absl::StrCat(path, ".", getpid(), ".tmp");
  FileDescriptor file(open(temporary.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666));
  if (file.get() < 0) return SystemError(absl::StrCat("cannot create ", temporary), errno);
  absl::Status status = WriteBytes(file.get(), bytes);
  if (status.ok() && file.Close() != 0) status = SystemError("cannot write", errno);
  if (status.ok() && std::rename(temporary.c_str(), path.c_str()) != 0)
    status = SystemError("cannot rename", errno);
  if (!status.ok()) unlink(temporary.c_str());
  return status;
}

absl::StatusOr<StoredTensors> ParseNpz(const std::string& bytes) {
  TESSERA_TRY_ASSIGN(auto members, ParseZip(bytes));
  StoredTensors tensors;
  for (auto& [name, content] : members) {
    if (!absl::EndsWith(name, ".npy")) continue;
    auto tensor = ParseNpy(content);
    if (!tensor.ok()) {
      return absl::Status(tensor.status().code(),
                          absl::StrCat("member '", name, "': ", tensor.status().message()));
    }
    tensors.emplace(name.substr(0, name.size() - 4), *std::move(tensor));
    content.clear();
    content.shrink_to_fit();
  }
  return tensors;
}

absl::StatusOr<StoredTensors> Parse(FileFormat format, const std::string& bytes) {
  switch (format) {
    case FileFormat::kNpz:
      return ParseNpz(bytes);
    case FileFormat::kSafetensors:
      return ParseSafetensors(bytes);
    case FileFormat::kNpy:
      break;
  }
  TESSERA_TRY_ASSIGN(StoredTensor tensor, ParseNpy(bytes));
  StoredTensors tensors;
  tensors.emplace("", std::move(tensor));
  return tensors;
}

absl::StatusOr<std::string> Format(FileFormat format, const std::map<std::string, TensorView>& tensors) {
  switch (format) {
    case FileFormat::kNpz: {
      std::map<std::string, std::string> members;
      for (const auto& [name, tensor] : tensors) members[name + ".npy"] = FormatNpy(tensor);
      return FormatZip(members);
    }
    case FileFormat::kSafetensors:
      return FormatSafetensors(tensors);
    case FileFormat::kNpy:
      break;
  }
  if (tensors.size() != 1) return absl::InvalidArgumentError("an .npy file holds one tensor");
  return FormatNpy(tensors.begin()->second);
}

absl::Status WithPath(const std::string& path, const absl::Status& status) {
  return absl::Status(status.code(), absl::StrCat(path, ": ", status.message()));
}

}  // namespace

absl::StatusOr<FileFormat> FormatOf(const std::string& path) {
  if (absl::EndsWith(path, ".npy")) return FileFormat::kNpy;
  if (absl::EndsWith(path, ".npz")) return FileFormat::kNpz;
  if (absl::EndsWith(path, ".safetensors")) return FileFormat::kSafetensors;
  return absl::InvalidArgumentError(
      absl::StrCat(path, ": unknown extension; tensor files end in .npy, .npz or .safetensors"));
}

absl::StatusOr<StoredTensors> ReadTensorFile(const std::string& path) {
  TESSERA_TRY_ASSIGN(const FileFormat format, FormatOf(path));
  const auto bytes = ReadBytes(path);
  if (!bytes.ok()) return WithPath(path, bytes.status());
  auto tensors = Parse(format, *bytes);
  if (!tensors.ok()) return WithPath(path, tensors.status());
  return tensors;
}

absl::Status WriteTensorFile(const std::string& path, const std::map<std::string, TensorView>& tensors) {
  TESSERA_TRY_ASSIGN(const FileFormat format, FormatOf(path));
  const auto bytes = Format(format, tensors);
  if (!bytes.ok()) return WithPath(path, bytes.status());
  if (absl::Status status = WriteAtomically(path, *bytes); !status.ok()) return WithPath(path, status);
  return absl::OkStatus();
}

}  // namespace tessera::client
