// Every activation is a lattice (N, C, D, H, W): N images, C channels, up to three spatial axes, missing ones of
// extent 1. Strides are in elements and may be anything (channels_last, slices, zero for expanded axes, negative).
#pragma once

#include <cstdint>

#include "levels.h"
#include "tensor_view.h"

namespace ppf {

struct Lattice {
  const void* data;
  DType dtype;
  int64_t N, C, D, H, W;
  int64_t stride_n, stride_c, stride_d, stride_h, stride_w;

  int64_t sites() const { return D * H * W; }
};

inline Lattice lattice_of(const TensorView& x) {
  require(x.ndim >= 2 && x.ndim <= 5, "x: wanted (N, C) with up to three spatial axes");
  const auto axis = [&](int d) { return d >= 2 ? x.shape[d] : int64_t{1}; };
  const auto step = [&](int d) { return d >= 2 ? x.stride[d] : int64_t{0}; };
  const int w = x.ndim - 1, h = x.ndim - 2, d = x.ndim - 3;  // the last axis is W, whatever their number
  return {x.data,  x.dtype,     x.shape[0],  x.shape[1], axis(d), axis(h),
          axis(w), x.stride[0], x.stride[1], step(d),    step(h), step(w)};
}

// Their number, from edges that fit the lattice.
inline int edges_per_channel(const TensorView& edges, const Lattice& x) {
  require(edges.ndim == 2 && edges.shape[0] == x.C && edges.shape[1] >= 1 && edges.shape[1] < kMaxLevels &&
              edges.dtype == DType::float32 && edges.is_contiguous(),
          "edges: wanted (C, L-1) float32, contiguous, 2 <= L <= 256");
  return static_cast<int>(edges.shape[1]);
}

}  // namespace ppf
