// Kernels with one bug each, for tests/test_cuda_emulated.py to see that the emulator finds it. Argument: which one.
// Prints "ok" when nothing was found.
#include <cstdio>
#include <string>
#include <vector>

#include "../../csrc/cuda/device.cuh"
#include "../../csrc/cuda/launch.cuh"

namespace ppf::cuda {
namespace {

constexpr int kThreads = 64;

__global__ void missing_barrier(int* out, int last) {
  __shared__ int shared[kThreads];
  shared[threadIdx.x] = static_cast<int>(threadIdx.x);
  // No __syncthreads here.
  out[threadIdx.x] = shared[last - threadIdx.x];
}

__global__ void missing_warp_barrier(int* out, int flip) {
  __shared__ int shared[kThreads];
  shared[threadIdx.x] = static_cast<int>(threadIdx.x);  // lock-step is relied upon
  out[threadIdx.x] = shared[threadIdx.x ^ flip];
}

__global__ void beyond_shared(int* out, int beyond) {
  __shared__ int shared[kThreads];
  shared[threadIdx.x + beyond] = 1;
  __syncthreads();
  out[threadIdx.x] = shared[threadIdx.x];
}

__global__ void beyond_dynamic_shared(int* out, int beyond) {
  auto* shared = reinterpret_cast<int*>(dynamic_shared());
  shared[threadIdx.x + beyond] = 1;
  __syncthreads();
  out[threadIdx.x] = shared[threadIdx.x];
}

__global__ void beyond_global(int* out, int beyond) { out[threadIdx.x + beyond] = 1; }

__global__ void divergent_barrier(int* out, int one) {
  if (threadIdx.x < kWarpLanes) {
    __syncthreads();
  } else {
    out[threadIdx.x] = one;
    __syncthreads();
  }
}

__global__ void barrier_after_return(int* out, int one) {
  if (threadIdx.x == kThreads - 1) return;
  out[threadIdx.x] = one;
  __syncthreads();
}

__global__ void deadlock(int* out, int one) {
  if (threadIdx.x == 0) {
    __syncthreads();
  } else {
    out[threadIdx.x] = __ballot_sync(kAllLanes, one);
  }
}

__global__ void shuffle_outside_mask(int* out, int one) {
  if (threadIdx.x % kWarpLanes < 16) out[threadIdx.x] = __shfl_sync(0xffffu, one, 16);
}

__global__ void own_lane_outside_mask(int* out, int one) { out[threadIdx.x] = __ballot_sync(0xffffu, one); }

__global__ void no_bug(int* out, int last) {
  __shared__ int shared[kThreads];
  shared[threadIdx.x] = static_cast<int>(threadIdx.x);
  __syncthreads();
  const int sum = warp_sum(shared[last - threadIdx.x]);
  __syncthreads();
  shared[threadIdx.x] = sum;
  __syncthreads();
  out[threadIdx.x] = shared[last - threadIdx.x];
}

struct Planted {
  const char* name;
  void (*launch)(const Grid&, int* const&, const int&);
  int argument, threads;
};

constexpr Planted kPlanted[] = {
    {"missing_barrier", launch<missing_barrier>, kThreads - 1, kThreads},
    {"missing_warp_barrier", launch<missing_warp_barrier>, 1, kThreads},
    {"beyond_shared", launch<beyond_shared>, 1, kThreads},
    {"beyond_dynamic_shared", launch<beyond_dynamic_shared>, 1, kThreads},
    {"beyond_global", launch<beyond_global>, 1, kThreads},
    {"divergent_barrier", launch<divergent_barrier>, 1, kThreads},
    {"barrier_after_return", launch<barrier_after_return>, 1, kThreads},
    {"deadlock", launch<deadlock>, 1, kThreads},
    {"shuffle_outside_mask", launch<shuffle_outside_mask>, 1, kThreads},
    {"own_lane_outside_mask", launch<own_lane_outside_mask>, 1, kThreads},
    {"too_many_threads", launch<no_bug>, kThreads - 1, 2048},
    {"no_bug", launch<no_bug>, kThreads - 1, kThreads},
};

}  // namespace
}  // namespace ppf::cuda

int main(int, char** arguments) {
  using namespace ppf::cuda;
  for (const Planted& planted : kPlanted) {
    if (planted.name != std::string(arguments[1])) continue;
    std::vector<int> out(kThreads);
    try {
      planted.launch({2, planted.threads, kThreads * sizeof(int), nullptr}, out.data(), planted.argument);
      std::puts("ok");
    } catch (const std::runtime_error& error) {
      std::puts(error.what());
    }
  }
}
