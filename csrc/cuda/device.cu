#include "device.h"

#include <cuda_runtime.h>

namespace ppf::cuda {

DeviceStatus device_status() {
  DeviceStatus status{};
  const cudaError_t error = cudaGetDeviceCount(&status.count);
  if (error != cudaSuccess) {
    status.count = 0;
    status.reason = cudaGetErrorString(error);
  }
  cudaRuntimeGetVersion(&status.runtime);
  cudaDriverGetVersion(&status.driver);
  return status;
}

}  // namespace ppf::cuda
