// What gRPC and Protocol Buffers would print on stderr in their own formats, as lines of our log.
#pragma once

namespace tessera {

// For the whole process, so for its main() only, before it starts threads. The libraries' lines come at level
// debug: most of them are about bytes that a client sent, and a client must not be able to fill the log. What
// they say before they abort comes at level critical.
void CaptureLibraryLogs();

}  // namespace tessera
