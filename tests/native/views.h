// Tensors of the programs here.
#pragma once

#include <initializer_list>
#include <vector>

#include "../../csrc/core/tensor_view.h"

template <class T>
ppf::TensorView view(std::vector<T>& data, ppf::DType dtype, std::initializer_list<int64_t> shape) {
  ppf::TensorView v;
  v.data = data.data();
  v.dtype = dtype;
  v.item_bytes = sizeof(T);
  for (const int64_t n : shape) v.shape[v.ndim++] = n;
  int64_t stride = 1;
  for (int d = v.ndim - 1; d >= 0; --d) v.stride[d] = stride, stride *= v.shape[d];
  return v;
}
