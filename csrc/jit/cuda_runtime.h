// The part of CUDA's header that our launchers use, for builds by g++ alone: a launch goes, by the kernel's name, to
// whoever has compiled the kernels by other means (pyprune_fast/jit/cupy_cuda.py). With this folder on the include path
// the files of csrc/cuda make the module _cuda without nvcc. Device code is parsed here and never run.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string>

#define __global__
#define __device__
#define __host__
#define __launch_bounds__(...)
#define __shared__ static

struct dim3 {
  unsigned x = 1, y = 1, z = 1;
};
inline dim3 threadIdx, blockIdx, blockDim, gridDim;

struct alignas(16) uint4 {
  unsigned x, y, z, w;
};

enum cudaError_t { cudaSuccess, cudaErrorLaunchFailure };
enum cudaDeviceAttr {
  cudaDevAttrMultiProcessorCount,
  cudaDevAttrMaxSharedMemoryPerBlockOptin,
  cudaDevAttrComputeCapabilityMajor
};
enum cudaFuncAttribute { cudaFuncAttributeMaxDynamicSharedMemorySize };
using cudaStream_t = void*;

struct cudaLaunchConfig_t {
  dim3 gridDim, blockDim;
  size_t dynamicSmemBytes = 0;
  cudaStream_t stream = nullptr;
  const char* kernel = "";  // whose text names the kernel: see launch.cuh
};

namespace ppf::jit {

// The other side. All return 0, or an error that it keeps.
struct Driver {
  int (*launch)(const char* kernel, unsigned blocks, unsigned threads, size_t shared_bytes, void* stream,
                void** parameters, const size_t* bytes, int count) = nullptr;
  int multiprocessors = 0, shared_bytes = 0, compute_capability = 0, devices = 0;
};
inline Driver driver;

extern "C" __attribute__((used, visibility("default"))) inline void ppf_set_driver(const Driver* given) {
  driver = *given;
}

}  // namespace ppf::jit

template <class... Parameters, class... Arguments>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t* config, void (*)(Parameters...),
                               const Arguments&... arguments) {
  const auto launch = [&](Parameters... parameters) {
    void* at[] = {&parameters...};
    const size_t bytes[] = {sizeof(Parameters)...};
    return ppf::jit::driver.launch(config->kernel, config->gridDim.x, config->blockDim.x, config->dynamicSmemBytes,
                                   config->stream, at, bytes, sizeof...(Parameters));
  };
  return ppf::jit::driver.launch != nullptr && launch(arguments...) == 0 ? cudaSuccess : cudaErrorLaunchFailure;
}

template <class... Parameters>
cudaError_t cudaFuncSetAttribute(void (*)(Parameters...), cudaFuncAttribute, int) {
  return cudaSuccess;  // the driver does it with the launch
}
// The driver has made the right device the current one.
inline cudaError_t cudaGetDevice(int* device) { return *device = 0, cudaSuccess; }
inline cudaError_t cudaSetDevice(int) { return cudaSuccess; }
inline cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr which, int) {
  const auto& driver = ppf::jit::driver;
  *value = which == cudaDevAttrMultiProcessorCount            ? driver.multiprocessors
           : which == cudaDevAttrMaxSharedMemoryPerBlockOptin ? driver.shared_bytes
                                                              : driver.compute_capability;
  return cudaSuccess;
}
inline cudaError_t cudaGetDeviceCount(int* count) { return *count = ppf::jit::driver.devices, cudaSuccess; }
inline cudaError_t cudaRuntimeGetVersion(int* version) { return *version = 0, cudaSuccess; }
inline cudaError_t cudaDriverGetVersion(int* version) { return *version = 0, cudaSuccess; }
inline const char* cudaGetErrorString(cudaError_t error) {
  return error == cudaSuccess ? "" : "the launch failed where it was handed to";
}

// --- parsed, never run
// ---------------------------------------------------------------------------------------------------

inline char* dynamic_shared_memory() { return nullptr; }
inline void __syncthreads() {}
inline void __syncwarp() {}
inline unsigned __ballot_sync(unsigned, int) { return 0; }
inline int __popc(unsigned) { return 0; }
template <class T>
T __shfl_sync(unsigned, T value, int) {
  return value;
}
template <class T>
T __shfl_xor_sync(unsigned, T value, int) {
  return value;
}
template <class T>
T atomicAdd(T* at, T) {
  return *at;
}
inline unsigned __funnelshift_r(unsigned low, unsigned, unsigned) { return low; }
inline unsigned __dp4a(unsigned, unsigned, unsigned sum) { return sum; }
inline float __uint_as_float(unsigned) { return 0; }
inline unsigned __umulhi(unsigned, unsigned) { return 0; }
