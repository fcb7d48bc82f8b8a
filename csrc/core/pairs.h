// pairs: joint counts of the levels of two channels at the same site, for all pairs of channels.
//
//     counts[a, b, g, h] += #{ (n, s) : level(x[n,a,s]) = g, level(x[n,b,s]) = h }
//
// and the information between them, without the table that would hold C * C * L * L numbers:
//
//     I(a; b) = H(a) + H(b) - H(a, b)   over the sites where both have a level, in nats; I(a; a) = H(a)
//     each entropy corrected alike, see correction.h; James-Stein's cells are L, L and L * L
//
//   x            (N, C, spatial...) float16, bfloat16, float32 or float64, any strides; 0 to 3 spatial axes
//   edges        (C, L-1) float32, contiguous, ascending; 2 <= L <= 256
//   counts       (C, C, L, L) int64, contiguous: added to, never cleared; counts[b, a] is the transpose of counts[a, b]
//   information  (C, C) float64, contiguous: written; symmetric
//   nans         (C,) int64, contiguous: sites without a level are added here; no pair that touches one is counted
//
// Deterministic: counts are integers; an information is computed from its own table, always in the same order.
#pragma once

#include "correction.h"
#include "tensor_view.h"

namespace ppf::cpu {

void pair_counts(const TensorView& x, const TensorView& edges, const TensorView& counts, const TensorView& nans,
                 int threads);

void pair_information(const TensorView& x, const TensorView& edges, Correction correction,
                      const TensorView& information, const TensorView& nans, int threads);

}  // namespace ppf::cpu

namespace ppf::cuda {

// The same on the CUDA device that the tensors are on, queued on the stream. `workspace` holds as many bytes as the
// last function says; its content does not matter. Corrections: plug_in and miller_madow.
void pair_counts(const TensorView& x, const TensorView& edges, const TensorView& counts, const TensorView& nans,
                 const TensorView& workspace, void* stream);

void pair_information(const TensorView& x, const TensorView& edges, Correction correction,
                      const TensorView& information, const TensorView& nans, const TensorView& workspace, void* stream);

int64_t pairs_workspace(const TensorView& x, const TensorView& edges);

}  // namespace ppf::cuda
