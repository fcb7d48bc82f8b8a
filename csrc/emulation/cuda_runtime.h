// The part of CUDA's header that our kernels and launchers use, for g++: kernels run on the CPU, each thread as a fiber
// (block.h). With this folder on the include path the files of csrc/cuda compile unchanged. For tests only.
//
// Memory of the "device" is the host's. Shared arrays are static, and dynamic shared memory is allocated for each block
// to the byte, so that AddressSanitizer knows where both end.
#pragma once

#include <bit>
#include <cstdint>
#include <cstring>
#include <memory>
#include <mutex>

#include "block.h"

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __shared__ static

inline dim3 blockIdx, blockDim, gridDim;

struct alignas(16) uint4 {
  unsigned x, y, z, w;
};

enum cudaError_t { cudaSuccess, cudaErrorInvalidValue, cudaErrorLaunchFailure };
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
};

namespace ppf::emulation {

// What tests set: the order of threads and blocks, and the device's size.
struct Device {
  unsigned schedule = 0;
  int multiprocessors = 4;
  int shared_bytes = 227 << 10;
  int compute_capability = 9;
};
inline Device device;
inline char* shared_memory = nullptr;
inline std::string last_error;

// For tests: from Python by its name in the module's file.
extern "C" __attribute__((used, visibility("default"))) inline void ppf_emulate(unsigned schedule, int multiprocessors,
                                                                                int shared_bytes) {
  device = {schedule, multiprocessors, shared_bytes};
}

inline std::mutex one_at_a_time;
inline const auto block = std::make_unique<Block>();

template <class Kernel>
void run_grid(const cudaLaunchConfig_t& config, const Kernel& kernel) {
  const std::lock_guard lock(one_at_a_time);
  gridDim = config.gridDim;
  blockDim = config.blockDim;
  const auto body = [](const void* called) { (*static_cast<const Kernel*>(called))(); };
  for (unsigned i = 0; i < config.gridDim.x; ++i) {
    blockIdx.x = device.schedule % 2 == 0 ? i : config.gridDim.x - 1 - i;
    const auto shared = std::make_unique_for_overwrite<char[]>(config.dynamicSmemBytes);
    std::memset(shared.get(), 0xA5, config.dynamicSmemBytes);  // nobody may count on zeros
    shared_memory = shared.get();
    block->run(body, &kernel, config.blockDim.x, device.schedule);
  }
}

}  // namespace ppf::emulation

// --- what launchers call
// -------------------------------------------------------------------------------------------------

template <class... Parameters, class... Arguments>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t* config, void (*kernel)(Parameters...),
                               Arguments&&... arguments) {
  using namespace ppf::emulation;
  const auto& block = config->blockDim;
  if (config->gridDim.x == 0 || block.x == 0 || block.x > kMaxThreads ||
      config->dynamicSmemBytes > static_cast<size_t>(device.shared_bytes)) {
    return cudaErrorInvalidValue;
  }
  try {
    run_grid(*config, [&] { kernel(arguments...); });
  } catch (const std::runtime_error& error) {
    last_error = error.what();
    return cudaErrorLaunchFailure;
  }
  return cudaSuccess;
}

template <class... Parameters>
cudaError_t cudaFuncSetAttribute(void (*)(Parameters...), cudaFuncAttribute, int bytes) {
  return bytes <= ppf::emulation::device.shared_bytes ? cudaSuccess : cudaErrorInvalidValue;
}

inline cudaError_t cudaGetDevice(int* device) { return *device = 0, cudaSuccess; }
inline cudaError_t cudaSetDevice(int) { return cudaSuccess; }
inline cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr which, int) {
  const auto& device = ppf::emulation::device;
  *value = which == cudaDevAttrMultiProcessorCount            ? device.multiprocessors
           : which == cudaDevAttrMaxSharedMemoryPerBlockOptin ? device.shared_bytes
                                                              : device.compute_capability;
  return cudaSuccess;
}
inline cudaError_t cudaGetDeviceCount(int* count) { return *count = 1, cudaSuccess; }
inline cudaError_t cudaRuntimeGetVersion(int* version) { return *version = 0, cudaSuccess; }
inline cudaError_t cudaDriverGetVersion(int* version) { return *version = 0, cudaSuccess; }
inline const char* cudaGetErrorString(cudaError_t error) {
  return error == cudaErrorLaunchFailure ? ppf::emulation::last_error.c_str() : "invalid argument";
}

// --- what kernels call
// ---------------------------------------------------------------------------------------------------

inline char* dynamic_shared_memory() { return ppf::emulation::shared_memory; }
inline void __syncthreads(const std::source_location& where = std::source_location::current()) {
  ppf::emulation::Block::running().barrier(where);
}
inline void __syncwarp(unsigned mask = ~0u, const std::source_location& where = std::source_location::current()) {
  ppf::emulation::Block::running().collective(ppf::emulation::Collective::sync, mask, 0, 0, where);
}
inline unsigned __ballot_sync(unsigned mask, int holds,
                              const std::source_location& where = std::source_location::current()) {
  using namespace ppf::emulation;
  return static_cast<unsigned>(Block::running().collective(Collective::ballot, mask, holds != 0, 0, where));
}
template <class T>
T __shfl_sync(unsigned mask, T value, int lane, const std::source_location& where = std::source_location::current()) {
  static_assert(sizeof(T) <= 8);
  using namespace ppf::emulation;
  uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof(T));
  bits = Block::running().collective(Collective::shuffle, mask, bits, lane, where);
  std::memcpy(&value, &bits, sizeof(T));
  return value;
}
template <class T>
T __shfl_xor_sync(unsigned mask, T value, int flip,
                  const std::source_location& where = std::source_location::current()) {
  return __shfl_sync(mask, value,
                     static_cast<int>(ppf::emulation::Block::running().thread() % ppf::emulation::kWarp) ^ flip, where);
}

template <class T>
T atomicAdd(T* at, T value) {
  return __atomic_fetch_add(at, value, __ATOMIC_RELAXED);
}
inline unsigned __funnelshift_r(unsigned low, unsigned high, unsigned shift) {
  return static_cast<unsigned>(((uint64_t{high} << 32) | low) >> (shift & 31));
}
inline unsigned __dp4a(unsigned a, unsigned b, unsigned sum) {
  for (int shift = 0; shift < 32; shift += 8) sum += (a >> shift & 255) * (b >> shift & 255);
  return sum;
}
inline int __popc(unsigned bits) { return std::popcount(bits); }
inline float __uint_as_float(unsigned bits) { return std::bit_cast<float>(bits); }
inline unsigned __umulhi(unsigned a, unsigned b) { return static_cast<unsigned>((uint64_t{a} * b) >> 32); }
