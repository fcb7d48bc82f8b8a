// Images in the order of their classes, so that a block fills one set of tables and changes it K times at most.
#pragma once

#include "device.cuh"

namespace ppf::cuda {

// Class k has the places begin[k] .. begin[k+1]-1 in the order. Without labels there is one class, and begin is null.
struct Classes {
  const int32_t* begin;
  uint32_t count;
  int64_t images;

  __device__ uint32_t runs() const { return begin != nullptr ? count : 1; }
  __device__ int64_t first(uint32_t k) const { return begin != nullptr ? begin[k] : 0; }
  __device__ int64_t last(uint32_t k) const { return begin != nullptr ? begin[k + 1] : images; }
};

namespace {

// One block. Images with a label outside 0..K-1 have no place: they are counted nowhere.
__global__ void classes_kernel(const int64_t* labels, int64_t num_images, uint32_t num_classes, int32_t* begin,
                               int32_t* next, int32_t* order) {
  const auto label_of = [&](int64_t n) { return static_cast<uint64_t>(labels[n]); };
  for (uint32_t k = threadIdx.x; k < num_classes; k += blockDim.x) next[k] = 0;
  __syncthreads();
  for (int64_t n = threadIdx.x; n < num_images; n += blockDim.x) {
    if (label_of(n) < num_classes) atomicAdd(&next[label_of(n)], 1);
  }
  __syncthreads();
  if (threadIdx.x == 0) {
    begin[0] = 0;
    for (uint32_t k = 0; k < num_classes; ++k) {
      begin[k + 1] = begin[k] + next[k];
      next[k] = begin[k];
    }
  }
  __syncthreads();
  for (int64_t n = threadIdx.x; n < num_images; n += blockDim.x) {
    if (label_of(n) < num_classes) order[atomicAdd(&next[label_of(n)], 1)] = static_cast<int32_t>(n);
  }
}

}  // namespace
}  // namespace ppf::cuda
