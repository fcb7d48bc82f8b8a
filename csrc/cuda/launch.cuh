// Launching: on the device that the data is on, on the caller's stream, without waiting; CUDA's errors become
// exceptions.
#pragma once

#include <cuda_runtime.h>

#include <algorithm>
#include <stdexcept>
#include <string>

#include "../core/tensor_view.h"

namespace ppf::cuda {

inline void check(cudaError_t error) {
  if (error != cudaSuccess) throw std::runtime_error(std::string("CUDA: ") + cudaGetErrorString(error));
}

inline constexpr int64_t divided_up(int64_t n, int64_t by) { return (n + by - 1) / by; }
inline constexpr int64_t rounded_up(int64_t n, int64_t to) { return divided_up(n, to) * to; }

// Makes a view's device the current one for a while, and knows what it offers.
class OnDeviceOf {
 public:
  explicit OnDeviceOf(const TensorView& x) {
    check(cudaGetDevice(&before_));
    check(cudaSetDevice(x.device));
    check(cudaDeviceGetAttribute(&multiprocessors, cudaDevAttrMultiProcessorCount, x.device));
    check(cudaDeviceGetAttribute(&shared_bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, x.device));
    check(cudaDeviceGetAttribute(&compute_capability, cudaDevAttrComputeCapabilityMajor, x.device));
  }
  OnDeviceOf(const OnDeviceOf&) = delete;
  OnDeviceOf& operator=(const OnDeviceOf&) = delete;
  ~OnDeviceOf() { cudaSetDevice(before_); }

  int multiprocessors = 0;
  int shared_bytes = 0;        // that one block may have
  int compute_capability = 0;  // its first number

 private:
  int before_ = 0;
};

struct Grid {
  int64_t blocks;
  int threads;
  size_t shared_bytes;
  void* stream;
};

// Where kernels are launched by name (csrc/jit), the launch has room for it.
template <class Config>
void name_launch(Config& config, const char* name) {
  if constexpr (requires { config.kernel; }) config.kernel = name;
}

template <auto kKernel, class... Parameters>
void launch(const Grid& grid, const Parameters&... parameters) {
  constexpr size_t kAlwaysThere = 48 << 10;
  if (grid.shared_bytes > kAlwaysThere) {
    const auto bytes = static_cast<int>(grid.shared_bytes);
    check(cudaFuncSetAttribute(kKernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes));
  }
  cudaLaunchConfig_t config{};
  config.gridDim.x = static_cast<unsigned>(grid.blocks);
  config.blockDim.x = static_cast<unsigned>(grid.threads);
  config.dynamicSmemBytes = grid.shared_bytes;
  config.stream = static_cast<cudaStream_t>(grid.stream);
  name_launch(config, __PRETTY_FUNCTION__);
  check(cudaLaunchKernelEx(&config, kKernel, parameters...));
}

// How some work is cut into chunks, so that all multiprocessors are busy and no chunk is too small for what it costs.
struct Chunks {
  int64_t size, count;

  Chunks(int64_t total, int64_t least, int64_t blocks_otherwise, const OnDeviceOf& device) {
    constexpr int64_t kBlocksPerMultiprocessor = 16,
                      kLargest = int64_t{1} << 29;  // indices of a chunk are 32 bits wide
    const int64_t wanted = divided_up(device.multiprocessors * kBlocksPerMultiprocessor, blocks_otherwise);
    const int64_t some = std::clamp<int64_t>(wanted, 1, std::max<int64_t>(1, total / least));
    size = rounded_up(divided_up(total, std::max(some, divided_up(total, kLargest))), 16);
    count = divided_up(total, size);
  }
};

// Hands out parts of the workspace; without memory it only adds up.
class Workspace {
 public:
  Workspace() = default;
  explicit Workspace(const TensorView& memory) : base_(memory.as<char>()) {}

  template <class T>
  T* take(int64_t number) {
    const int64_t at = bytes_;
    bytes_ += rounded_up(number * static_cast<int64_t>(sizeof(T)), 256);
    return base_ != nullptr ? reinterpret_cast<T*>(base_ + at) : nullptr;
  }
  int64_t bytes() const { return bytes_; }

 private:
  char* base_ = nullptr;
  int64_t bytes_ = 0;
};

inline void require_workspace(const TensorView& memory, int64_t bytes) {
  require(memory.numel() * memory.item_bytes >= bytes && memory.is_contiguous() && !memory.read_only,
          "workspace: wanted as many bytes as the op's workspace function says, contiguous, writable");
  require(reinterpret_cast<uintptr_t>(memory.data) % 16 == 0, "workspace: wanted it aligned to 16 bytes");
}

}  // namespace ppf::cuda
