// Which CUDA devices this process can use, as a value: asking never throws and never starts a context.
#pragma once

#include <string>

namespace ppf::cuda {

struct DeviceStatus {
  int count;           // 0 when there is none, no driver, or a driver that is too old
  std::string reason;  // "" when count > 0, else CUDA's own words
  int runtime;         // version that this module was built with, 1000 * major + 10 * minor
  int driver;          // highest version that the driver supports; 0 without a driver
};

DeviceStatus device_status();

// Kernels that no device has confirmed yet are launched only where this is set: by tests on the emulated device, and by
// bench/gpu, which compares and races them. What wins there becomes the rule, and the other goes.
inline bool trial_kernels = false;

}  // namespace ppf::cuda
