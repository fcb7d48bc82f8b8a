// masked_norm: LayerNorm and RMSNorm whose statistics count each channel by a mask, and their gradients. A mask of 0
// and 1 gives, on the kept channels, the norm of what is left when the others are cut; in between it is differentiable.
//
//     mu = sum_c m_c x_c / M (0 unless `centred`)    v = sum_c m_c (x_c - mu)^2 / M     M = sum_c m_c
//     y_c = n_c w_c + b_c                            n_c = (x_c - mu) r                 r = 1 / sqrt(v + eps)
//
// and with g = dL/dy, h = g w, S1 = sum_c h_c (0 unless `centred`), S2 = sum_c h_c n_c, in each row:
//
//     dL/dx_c = r (h_c - m_c (S1 + n_c S2) / M)
//     dL/dm_c = - sum over rows (S1 n_c + S2 (n_c^2 - v r^2) / 2) / M
//     dL/dw_c = sum over rows g_c n_c                dL/db_c = sum over rows g_c
//
//   x, y, g, dx             (N, C) float32 or float64, contiguous
//   mask, weight, bias      (C,) of x's dtype, contiguous; weight and bias may be absent: 1 and 0
//   mean, variance          (N,) of x's dtype, contiguous: mu and v, written by the one and read by the other
//   dmask                   (C,) of x's dtype, contiguous: written        dweight, dbias  likewise, both or neither
//
// Where M is 0 there are no statistics: NaN. Sums over a row are in 16 lanes of x's dtype, added up in float64; sums
// over rows are in x's dtype over at most 64 rows, then float64. Deterministic: the order of summation is fixed by the
// shape, whatever the threads and the SIMD level.
#pragma once

#include <optional>

#include "tensor_view.h"

namespace ppf::cpu {

void masked_norm(const TensorView& x, const TensorView& mask, const std::optional<TensorView>& weight,
                 const std::optional<TensorView>& bias, double eps, bool centred, const TensorView& y,
                 const TensorView& mean, const TensorView& variance, int threads);

void masked_norm_backward(const TensorView& grad, const TensorView& x, const TensorView& mask,
                          const std::optional<TensorView>& weight, const TensorView& mean, const TensorView& variance,
                          double eps, bool centred, const TensorView& dx, const TensorView& dmask,
                          const std::optional<TensorView>& dweight, const std::optional<TensorView>& dbias,
                          int threads);

}  // namespace ppf::cpu
