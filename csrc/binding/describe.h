// A TensorView as a Python dict.
#pragma once

#include <pybind11/pybind11.h>

#include "tensor_caster.h"

namespace ppf::binding {

inline const char* name_of(DType dtype) {
  switch (dtype) {
    case DType::float16:
      return "float16";
    case DType::bfloat16:
      return "bfloat16";
    case DType::float32:
      return "float32";
    case DType::float64:
      return "float64";
    case DType::int64:
      return "int64";
    default:
      return "opaque";
  }
}

inline py::dict describe(const TensorView& x) {
  py::list shape, strides;
  for (int d = 0; d < x.ndim; ++d) {
    shape.append(x.shape[d]);
    strides.append(x.stride[d]);
  }
  using namespace py::literals;
  return py::dict("dtype"_a = name_of(x.dtype), "item_bytes"_a = x.item_bytes, "shape"_a = py::tuple(shape),
                  "strides"_a = py::tuple(strides), "read_only"_a = x.read_only, "on_cuda"_a = x.on_cuda,
                  "device"_a = x.device, "address"_a = reinterpret_cast<uintptr_t>(x.data));
}

}  // namespace ppf::binding
