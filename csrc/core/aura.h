// aura: counts of level pairs at neighbouring sites (the aura measure of Elfadel & Picard, IEEE TPAMI 16(1), 1994).
//
//     counts[c, k, r, g, h] += #{ (n, s) : label[n] = k, level(x[n,c,s]) = g, level(x[n,c,s+r]) = h }
//
// with both sites inside the map (free boundary), or s+r wrapped round it (periodic).
//
//   x        (N, C, spatial...) float16, bfloat16, float32 or float64, any strides; 0 to 3 spatial axes
//   edges    (C, L-1) float32, contiguous, ascending; 2 <= L <= 256
//   offsets  R offsets (d, h, w), leading zeros for missing axes
//   labels   (N,) int64 in 0..K-1, contiguous; or absent: every image is class 0
//   counts   (C, K, R, L, L) int64, contiguous: added to, never cleared; or (C, K, 1, L, L): offsets are merged, summed
//   nans     (C,) int64, contiguous: sites without a level are added here; no pair that touches one is counted
//
// Deterministic: integers, so the result depends neither on threads nor on order.
#pragma once

#include <optional>
#include <span>

#include "offset.h"
#include "tensor_view.h"

namespace ppf::cpu {

void aura_counts(const TensorView& x, const TensorView& edges, std::span<const Offset> offsets, bool periodic,
                 const std::optional<TensorView>& labels, const TensorView& counts, const TensorView& nans,
                 int threads);

}  // namespace ppf::cpu

namespace ppf::cuda {

// The same on the CUDA device that the tensors are on: queued on the stream, images with a label outside 0..K-1 left
// out. `workspace` holds as many bytes as the second function says; its content does not matter.
void aura_counts(const TensorView& x, const TensorView& edges, std::span<const Offset> offsets, bool periodic,
                 const std::optional<TensorView>& labels, const TensorView& counts, const TensorView& nans,
                 const TensorView& workspace, void* stream);

int64_t aura_counts_workspace(const TensorView& x, const TensorView& edges, std::span<const Offset> offsets,
                              bool periodic, const std::optional<TensorView>& labels, const TensorView& counts);

}  // namespace ppf::cuda
