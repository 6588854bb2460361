// The cores that this process may use.
#pragma once

namespace tessera {

// Cores that this process may run on: its affinity, and no more than its control group's CPU quota allows.
// >= 1.
int UsableCores();

}  // namespace tessera
