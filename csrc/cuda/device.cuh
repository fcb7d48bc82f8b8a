// Small device functions that several kernels use.
#pragma once

#include "platform.cuh"

namespace ppf::cuda {

inline constexpr uint32_t kAllLanes = 0xffffffffu;
inline constexpr int kWarpLanes = 32;

// Division by a number that is known before the launch: n / divisor for n < 2^31 by one multiplication.
struct Divider {
  uint32_t divisor, multiplier, shift;

  Divider() = default;
#ifndef __CUDACC_RTC__
  explicit Divider(uint32_t d) : divisor(d), multiplier(0), shift(0) {
    while ((uint64_t{1} << shift) < d) ++shift;
    multiplier = static_cast<uint32_t>((((uint64_t{1} << shift) - d) << 32) / d + 1);
  }
#endif
  __device__ uint32_t quotient(uint32_t n) const { return (__umulhi(n, multiplier) + n) >> shift; }
};

__device__ inline void add_to(int64_t* count, uint64_t number) {
  atomicAdd(reinterpret_cast<unsigned long long*>(count), static_cast<unsigned long long>(number));
}

// The sum over the lanes of a warp, in every lane, always in the same order.
template <class T>
__device__ T warp_sum(T x) {
  for (int flip = kWarpLanes / 2; flip > 0; flip /= 2) x += __shfl_xor_sync(kAllLanes, x, flip);
  return x;
}

// The same over a block; `partial` holds one T a warp. All threads call it.
template <class T>
__device__ T block_sum(T x, T* partial) {
  x = warp_sum(x);
  __syncthreads();
  if (threadIdx.x % kWarpLanes == 0) partial[threadIdx.x / kWarpLanes] = x;
  __syncthreads();
  T sum = 0;
  for (uint32_t w = 0; w < blockDim.x / kWarpLanes; ++w) sum += partial[w];
  return sum;
}

// kCount neighbouring elements, read at once where they fill a machine word; `at` is aligned to their size.
template <class T, int kCount>
struct alignas(sizeof(T) * kCount) Vector {
  T item[kCount];
};

template <int kCount, class T>
__device__ Vector<T, kCount> load(const T* at) {
  return *reinterpret_cast<const Vector<T, kCount>*>(at);
}

}  // namespace ppf::cuda
