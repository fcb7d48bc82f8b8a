// joint: counts of levels per channel and class.
//
//     counts[c, k, g] += #{ (n, s) : label[n] = k, level(x[n,c,s]) = g }
//
//   x       (N, C, spatial...) float16, bfloat16, float32 or float64, any strides; 0 to 3 spatial axes
//   edges   (C, L-1) float32, contiguous, ascending; 2 <= L <= 256
//   labels  (N,) int64 in 0..K-1, contiguous; or absent: every image is class 0
//   counts  (C, K, L) int64, contiguous: added to, never cleared
//   nans    (C,) int64, contiguous: sites without a level are added here
//
// Deterministic: integers, so the result depends neither on threads nor on order.
#pragma once

#include <optional>

#include "tensor_view.h"

namespace ppf::cpu {

void joint_counts(const TensorView& x, const TensorView& edges, const std::optional<TensorView>& labels,
                  const TensorView& counts, const TensorView& nans, int threads);

}  // namespace ppf::cpu

namespace ppf::cuda {

// The same on the CUDA device that the tensors are on: queued on the stream, images with a label outside 0..K-1 left
// out. `workspace` holds as many bytes as the second function says; its content does not matter.
void joint_counts(const TensorView& x, const TensorView& edges, const std::optional<TensorView>& labels,
                  const TensorView& counts, const TensorView& nans, const TensorView& workspace, void* stream);

int64_t joint_counts_workspace(const std::optional<TensorView>& labels, const TensorView& counts);

}  // namespace ppf::cuda
