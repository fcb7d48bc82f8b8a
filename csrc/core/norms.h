// norms: sums of powers over the rows and over the columns of a weight, in one pass and without temporaries: what
// magnitude and Taylor scores are made of.
//
//     rows[o]    = sum over all i, ... of |x[o, i, ...]|^p
//     columns[i] = sum over all o, ... of |x[o, i, ...]|^p          with a factor: |x * factor|^p
//
//   x        (O, I, ...) float16, bfloat16, float32 or float64, at least one axis (I = 1 without a second); each x[o]
//   dense, in the
//            order of its axes or with the axis I innermost (channels_last)
//   p        1 or 2
//   factor   the shape, dtype and strides of x (a gradient); or absent
//   rows     (O,) float32, contiguous: written          columns  (I,) float32, contiguous: written
//
// Sums are float32 over at most 256 terms, then float64; rounded once at the end. Deterministic: the order of summation
// is fixed by the shape, whatever the threads.
#pragma once

#include <optional>

#include "tensor_view.h"

namespace ppf::cpu {

void norms(const TensorView& x, int power, const std::optional<TensorView>& factor, const TensorView& rows,
           const TensorView& columns, int threads);

}  // namespace ppf::cpu
