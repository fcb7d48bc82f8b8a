// Python object -> TensorView, without a copy. Tried in this order:
//   1. the exchange table of DLPack 1.3 (torch >= 2.10): one C call
//   2. __dlpack__, versioned or not (NumPy, JAX, CuPy, older torch)
//   3. the buffer protocol (memoryview, array.array)
// The view borrows: the argument, or the capsule made from it, is kept alive for as long as the call lasts.
// Guards, each for something that an exporter really does: null data with elements (fake and meta tensors), strides
// left out, byte offsets, read-only flags, sub-byte and vector dtypes.
#pragma once

#include <pybind11/pybind11.h>

#include "../core/tensor_view.h"
#include "dlpack.h"

namespace ppf::binding {

namespace py = pybind11;

inline DType dtype_of(dlpack::DataType t) {
  if (t.code == dlpack::kFloat && t.bits == 16) return DType::float16;
  if (t.code == dlpack::kFloat && t.bits == 32) return DType::float32;
  if (t.code == dlpack::kFloat && t.bits == 64) return DType::float64;
  if (t.code == dlpack::kBfloat && t.bits == 16) return DType::bfloat16;
  if (t.code == dlpack::kInt && t.bits == 64) return DType::int64;
  return DType::opaque;  // kernels that only move bytes take these
}

inline TensorView view_of(const dlpack::Tensor& t, bool read_only) {
  if (t.ndim < 0 || t.ndim > kMaxDims) throw py::value_error("tensor: wanted at most 8 axes");
  if (t.dtype.lanes != 1 || t.dtype.bits % 8 != 0) throw py::type_error("tensor: wanted elements of whole bytes");
  TensorView view;
  view.dtype = dtype_of(t.dtype);
  view.item_bytes = t.dtype.bits / 8;
  view.ndim = t.ndim;
  view.read_only = read_only;
  view.on_cuda = t.device.type == dlpack::kCuda || t.device.type == dlpack::kCudaManaged;
  if (!view.on_cuda && t.device.type != dlpack::kCpu && t.device.type != dlpack::kCudaHost) {
    throw py::value_error("tensor: wanted one on the CPU or on a CUDA device");
  }
  view.device = t.device.id;
  int64_t expected = 1;
  for (int d = t.ndim - 1; d >= 0; --d) {
    view.shape[d] = t.shape[d];
    view.stride[d] = t.strides != nullptr ? t.strides[d] : expected;
    expected *= t.shape[d];
  }
  if (t.data == nullptr && view.numel() > 0) {
    throw py::value_error("tensor: it has elements but no memory (a fake or meta tensor?)");
  }
  view.data = t.data == nullptr ? nullptr : static_cast<char*>(t.data) + t.byte_offset;
  return view;
}

// Null unless the object's type offers the table, in a version that we know.
inline const dlpack::ExchangeApi* exchange_api_of(py::handle object) {
  const auto type = reinterpret_cast<PyObject*>(Py_TYPE(object.ptr()));
  PyObject* found = PyObject_GetAttrString(type, "__dlpack_c_exchange_api__");
  if (found == nullptr) {
    PyErr_Clear();
    return nullptr;
  }
  const auto capsule = py::reinterpret_steal<py::object>(found);
  if (!PyCapsule_IsValid(capsule.ptr(), "dlpack_exchange_api")) return nullptr;
  const auto* api = static_cast<dlpack::ExchangeApi*>(PyCapsule_GetPointer(capsule.ptr(), "dlpack_exchange_api"));
  return api->version.major == 1 && api->tensor_from_object != nullptr ? api : nullptr;
}

// A capsule is read in place, never renamed to "used_...": it outlives the call by nothing and frees itself.
inline TensorView view_of_capsule(const py::object& capsule) {
  if (PyCapsule_IsValid(capsule.ptr(), "dltensor_versioned")) {
    const auto* managed =
        static_cast<dlpack::ManagedTensorVersioned*>(PyCapsule_GetPointer(capsule.ptr(), "dltensor_versioned"));
    if (managed->version.major != 1) throw py::buffer_error("tensor: wanted DLPack version 1");
    return view_of(managed->tensor, (managed->flags & dlpack::kReadOnly) != 0);
  }
  if (PyCapsule_IsValid(capsule.ptr(), "dltensor")) {
    return view_of(static_cast<dlpack::ManagedTensor*>(PyCapsule_GetPointer(capsule.ptr(), "dltensor"))->tensor, false);
  }
  throw py::type_error("tensor: __dlpack__ gave no DLPack capsule");
}

inline py::object capsule_of(py::handle object) {
  const py::object export_ = object.attr("__dlpack__");
  try {
    return export_(py::arg("max_version") = py::make_tuple(1, 1));
  } catch (py::error_already_set& error) {
    if (!error.matches(PyExc_TypeError)) throw;
    return export_();  // an exporter from before DLPack 1.0
  }
}

inline dlpack::DataType dtype_of_format(const char* letter, py::ssize_t item_bytes) {
  const auto bits = static_cast<uint8_t>(8 * item_bytes);
  if (*letter == '@' || *letter == '=') ++letter;
  if (letter[0] == '\0' || letter[1] != '\0') throw py::type_error("tensor: wanted a buffer of one native number type");
  switch (*letter) {
    case 'e':
    case 'f':
    case 'd':
      return {dlpack::kFloat, bits, 1};
    case 'b':
    case 'h':
    case 'i':
    case 'l':
    case 'q':
    case 'n':
      return {dlpack::kInt, bits, 1};
    case 'B':
    case 'H':
    case 'I':
    case 'L':
    case 'Q':
    case 'N':
    case 'c':
      return {dlpack::kUInt, bits, 1};
    case '?':
      return {dlpack::kBool, bits, 1};
    default:
      throw py::type_error("tensor: wanted a buffer of one native number type");
  }
}

inline TensorView view_of_buffer(const py::memoryview& memory) {
  const Py_buffer& buffer = *PyMemoryView_GET_BUFFER(memory.ptr());
  if (buffer.ndim > kMaxDims) throw py::value_error("tensor: wanted at most 8 axes");
  int64_t shape[kMaxDims], strides[kMaxDims];
  for (int d = 0; d < buffer.ndim; ++d) {
    if (buffer.strides[d] % buffer.itemsize != 0) throw py::value_error("tensor: wanted strides of whole elements");
    shape[d] = buffer.shape[d];
    strides[d] = buffer.strides[d] / buffer.itemsize;
  }
  const char* format = buffer.format != nullptr ? buffer.format : "B";
  return view_of(
      {buffer.buf, {dlpack::kCpu, 0}, buffer.ndim, dtype_of_format(format, buffer.itemsize), shape, strides, 0},
      buffer.readonly != 0);
}

}  // namespace ppf::binding

namespace pybind11::detail {

template <>
struct type_caster<ppf::TensorView> {
  PYBIND11_TYPE_CASTER(ppf::TensorView, const_name("Tensor"));

  bool load(handle source, bool) {
    using namespace ppf::binding;
    if (source.is_none()) return false;
    if (const auto* api = exchange_api_of(source)) {
      ppf::dlpack::Tensor tensor{};
      if (api->tensor_from_object(source.ptr(), &tensor) != 0) throw error_already_set();
      value = view_of(tensor, false);
      return true;
    }
    if (hasattr(source, "__dlpack__")) {
      const object capsule = capsule_of(source);
      loader_life_support::add_patient(capsule);
      value = view_of_capsule(capsule);
      return true;
    }
    if (PyObject_CheckBuffer(source.ptr()) != 0) {
      const memoryview memory(reinterpret_borrow<object>(source));
      loader_life_support::add_patient(memory);
      value = view_of_buffer(memory);
      return true;
    }
    return false;  // pybind11 says which argument and what was wanted
  }
};

}  // namespace pybind11::detail
