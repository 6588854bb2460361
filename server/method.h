// The RPCs of tessera.v1.AttentionService, by name.
#pragma once

namespace tessera {

enum class Method { kAttend, kAttendStream, kExplain, kGetServerInfo };
inline constexpr int kNumMethods = 4;

inline const char* MethodName(Method method) {
  switch (method) {
    case Method::kAttend:
      return "Attend";
    case Method::kAttendStream:
      return "AttendStream";
    case Method::kExplain:
      return "Explain";
    case Method::kGetServerInfo:
      return "GetServerInfo";
  }
  return "";
}

}  // namespace tessera
