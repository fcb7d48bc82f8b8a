// extremes: the range of each channel in one pass, compared in float32 as levels are (core/levels.h).
//
//     low[c] = min(low[c], min x[n,c,s])     high[c] = max(high[c], max x[n,c,s])     over the (n, s) that hold a
//     number nans[c] += #{ (n, s) : x[n,c,s] is NaN }
//
//   x          (N, C, spatial...) float16, bfloat16, float32 or float64, any strides; 0 to 3 spatial axes
//   low, high  (C,) float32, contiguous: combined with; +inf and -inf where nothing came yet
//   nans       (C,) int64, contiguous: added to
//
// Infinities are numbers; a zero comes out as +0. Deterministic: nothing is rounded but float64 to float32, so the
// result depends neither on threads nor on order.
#pragma once

#include "tensor_view.h"

namespace ppf::cpu {

void extremes(const TensorView& x, const TensorView& low, const TensorView& high, const TensorView& nans, int threads);

}  // namespace ppf::cpu
