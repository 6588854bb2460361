// How malloc treats memory that gRPC frees.
#pragma once

namespace tessera {

// Makes the heap keep what is freed, for the next message: by default glibc gives the slices of each large
// message back to the system and faults them in anew for the next one, which takes longer than copying them.
// At most 256 MiB of the main arena and 64 MiB of each other one are kept beyond what is in use, and there is
// one arena for each core. For the start of a program, before it has threads; does nothing without glibc.
void KeepFreedMemory();

}  // namespace tessera
