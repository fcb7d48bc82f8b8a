// Module _cuda: what Python can call. It imports on machines without a driver and says why there is no device.
#include <pybind11/pybind11.h>

#include "../cuda/device.h"

namespace py = pybind11;
using namespace py::literals;

PYBIND11_MODULE(_cuda, m) {
  m.doc() = "CUDA kernels of pyprune_fast.";
  m.def("device_status", [] {
    const auto status = ppf::cuda::device_status();
    return py::dict("count"_a = status.count, "reason"_a = status.reason, "runtime"_a = status.runtime,
                    "driver"_a = status.driver);
  });
}
