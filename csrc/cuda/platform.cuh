// What differs between the three compilers of device code, and nothing else: nvcc, NVRTC (which has no standard
// headers), and g++ with csrc/emulation or csrc/jit on its include path. Everything else in a *_kernels.cuh is the same
// text for all of them.
#pragma once

#ifdef __CUDACC_RTC__
using int8_t = signed char;
using uint8_t = unsigned char;
using uint16_t = unsigned short;
using int32_t = int;
using uint32_t = unsigned int;
using int64_t = long long;
using uint64_t = unsigned long long;

namespace ppf {
struct bfloat16 {
  uint16_t bits;
};
struct float16 {
  uint16_t bits;
};
}  // namespace ppf
#else
#include <cuda_runtime.h>

#include <cmath>
#include <cstdint>

#include "../core/dtype.h"
#endif

namespace ppf::cuda {

__device__ inline float widened(float x) { return x; }
__device__ inline float widened(double x) { return static_cast<float>(x); }
__device__ inline float widened(bfloat16 x) { return __uint_as_float(static_cast<uint32_t>(x.bits) << 16); }
__device__ inline float widened(float16 x) {
#ifdef __CUDA_ARCH__
  float y;
  asm("cvt.f32.f16 %0, %1;" : "=f"(y) : "h"(x.bits));
  return y;
#else
  return to_float(x);
#endif
}

// A pointer to global memory that was kept in shared memory: the compiler is told where it points.
template <class T>
__device__ const T* in_global(const T* at) {
#ifdef __CUDA_ARCH__
  __builtin_assume(__isGlobal(at));
#endif
  return at;
}

// The block's dynamic shared memory.
__device__ inline char* dynamic_shared() {
#ifdef __CUDACC__
  extern __shared__ __align__(16) char memory[];
  return memory;
#else
  return dynamic_shared_memory();
#endif
}

}  // namespace ppf::cuda
