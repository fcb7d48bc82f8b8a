// take: gathers rows (axis 0) and columns (axis 1) of a tensor in one pass: what structural pruning does to a weight.
//
//     out[i, j, ...] = x[rows[i], columns[j], ...]
//
//   x        any dtype, at least one axis, any strides
//   rows     (I,) int64 in 0..x.shape[0]-1, contiguous; or absent: all rows
//   columns  (J,) int64 in 0..x.shape[1]-1, contiguous; or absent: all columns
//   out      contiguous, same dtype, shape (I, J, rest of x); does not overlap x
//
// Deterministic: bytes are copied.
#pragma once

#include <optional>
#include <span>

#include "tensor_view.h"

namespace ppf::cpu {

void take(const TensorView& x, const std::optional<TensorView>& rows, const std::optional<TensorView>& columns,
          const TensorView& out, int threads);

}  // namespace ppf::cpu

namespace ppf::cuda {

// One tensor of those that are cut together.
struct TakeArguments {
  TensorView x;
  std::optional<TensorView> rows, columns;
  TensorView out;
};

// The same for many tensors on one CUDA device, in one launch queued on the stream. The caller has checked the indices,
// which are on the device.
void take(std::span<const TakeArguments> cuts, void* stream);

}  // namespace ppf::cuda
