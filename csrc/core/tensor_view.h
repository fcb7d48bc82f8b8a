// A tensor as kernels see it: a pointer, a dtype, a shape and strides in elements. It owns nothing.
#pragma once

#include <array>
#include <cstdint>

#include "check.h"
#include "dtype.h"

namespace ppf {

inline constexpr int kMaxDims = 8;

struct TensorView {
  void* data = nullptr;
  DType dtype = DType::opaque;
  int item_bytes = 0;
  int ndim = 0;
  bool read_only = false;
  bool on_cuda = false;
  int device = 0;
  std::array<int64_t, kMaxDims> shape{};
  std::array<int64_t, kMaxDims> stride{};

  int64_t numel() const {
    int64_t n = 1;
    for (int d = 0; d < ndim; ++d) n *= shape[d];
    return n;
  }

  bool is_contiguous() const {
    if (numel() == 0) return true;
    int64_t expected = 1;
    for (int d = ndim - 1; d >= 0; --d) {
      if (shape[d] != 1 && stride[d] != expected) return false;
      expected *= shape[d];
    }
    return true;
  }

  template <class T>
  T* as() const {
    return static_cast<T*>(data);
  }
};

template <class... Views>
void require_on_cpu(const Views&... views) {
  require((!views.on_cuda && ...), "wanted tensors on the CPU, got one on a CUDA device");
}

// On one CUDA device, the first view's.
template <class... Views>
void require_on_cuda(const TensorView& first, const Views&... others) {
  const auto is_there = [&](const TensorView& view) {
    return view.data == nullptr || (view.on_cuda && view.device == first.device);
  };
  require(first.on_cuda, "wanted tensors on a CUDA device, got one on the CPU");
  require((is_there(others) && ...), "wanted all tensors on one CUDA device");
}

// An output: writable, contiguous, of the wanted dtype and number of elements.
inline void require_output(const TensorView& out, DType dtype, int64_t numel, const char* what) {
  require(out.dtype == dtype && !out.read_only && out.is_contiguous() && out.numel() == numel, what);
}

}  // namespace ppf
