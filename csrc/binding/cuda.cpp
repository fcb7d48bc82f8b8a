// Module _cuda: what Python can call. It imports on machines without a driver and says why there is no device. Names
// are those of _cpu; in place of threads come a workspace, where an op needs one, and the stream.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include "../core/aura.h"
#include "../core/joint.h"
#include "../core/pairs.h"
#include "../core/take.h"
#include "../cuda/device.h"
#include "correction_caster.h"
#include "describe.h"
#include "offset_caster.h"
#include "tensor_caster.h"

namespace py = pybind11;
using namespace py::literals;

namespace {

using ppf::TensorView;
using Optional = std::optional<TensorView>;

void* stream_of(uintptr_t stream) { return reinterpret_cast<void*>(stream); }

void def_counts(py::module_& m) {
  const auto release = py::call_guard<py::gil_scoped_release>();
  m.def(
      "aura_counts",
      [](const TensorView& x, const TensorView& edges, const std::vector<ppf::Offset>& offsets, bool periodic,
         const Optional& labels, const TensorView& counts, const TensorView& nans, const TensorView& workspace,
         uintptr_t stream) {
        ppf::cuda::aura_counts(x, edges, offsets, periodic, labels, counts, nans, workspace, stream_of(stream));
      },
      "x"_a, "edges"_a, "offsets"_a, "periodic"_a, "labels"_a.none(true), "counts"_a, "nans"_a, "workspace"_a,
      "stream"_a, release);
  m.def(
      "aura_counts_workspace",
      [](const TensorView& x, const TensorView& edges, const std::vector<ppf::Offset>& offsets, bool periodic,
         const Optional& labels, const TensorView& counts) {
        return ppf::cuda::aura_counts_workspace(x, edges, offsets, periodic, labels, counts);
      },
      "x"_a, "edges"_a, "offsets"_a, "periodic"_a, "labels"_a.none(true), "counts"_a, "Bytes that aura_counts needs.");
  m.def(
      "joint_counts",
      [](const TensorView& x, const TensorView& edges, const Optional& labels, const TensorView& counts,
         const TensorView& nans, const TensorView& workspace,
         uintptr_t stream) { ppf::cuda::joint_counts(x, edges, labels, counts, nans, workspace, stream_of(stream)); },
      "x"_a, "edges"_a, "labels"_a.none(true), "counts"_a, "nans"_a, "workspace"_a, "stream"_a, release);
  m.def("joint_counts_workspace", &ppf::cuda::joint_counts_workspace, "labels"_a.none(true), "counts"_a,
        "Bytes that joint_counts needs.");
}

void def_pairs(py::module_& m) {
  const auto release = py::call_guard<py::gil_scoped_release>();
  m.def(
      "pair_counts",
      [](const TensorView& x, const TensorView& edges, const TensorView& counts, const TensorView& nans,
         const TensorView& workspace,
         uintptr_t stream) { ppf::cuda::pair_counts(x, edges, counts, nans, workspace, stream_of(stream)); },
      "x"_a, "edges"_a, "counts"_a, "nans"_a, "workspace"_a, "stream"_a, release);
  m.def(
      "pair_information",
      [](const TensorView& x, const TensorView& edges, ppf::Correction correction, const TensorView& information,
         const TensorView& nans, const TensorView& workspace, uintptr_t stream) {
        ppf::cuda::pair_information(x, edges, correction, information, nans, workspace, stream_of(stream));
      },
      "x"_a, "edges"_a, "correction"_a, "information"_a, "nans"_a, "workspace"_a, "stream"_a, release);
  m.def("pairs_workspace", &ppf::cuda::pairs_workspace, "x"_a, "edges"_a,
        "Bytes that pair_counts and pair_information need.");
}

void def_take(py::module_& m) {
  const auto release = py::call_guard<py::gil_scoped_release>();
  m.def(
      "take",
      [](const TensorView& x, const Optional& rows, const Optional& columns, const TensorView& out, uintptr_t stream) {
        const ppf::cuda::TakeArguments one{x, rows, columns, out};
        ppf::cuda::take({&one, 1}, stream_of(stream));
      },
      "x"_a, "rows"_a.none(true), "columns"_a.none(true), "out"_a, "stream"_a, release);
  m.def(
      "take_all",
      [](const std::vector<TensorView>& x, const std::vector<Optional>& rows, const std::vector<Optional>& columns,
         const std::vector<TensorView>& out, uintptr_t stream) {
        ppf::require(rows.size() == x.size() && columns.size() == x.size() && out.size() == x.size(),
                     "rows, columns, out: wanted one for each tensor of x");
        std::vector<ppf::cuda::TakeArguments> cuts;
        for (size_t i = 0; i < x.size(); ++i) cuts.push_back({x[i], rows[i], columns[i], out[i]});
        ppf::cuda::take(cuts, stream_of(stream));
      },
      "x"_a, "rows"_a, "columns"_a, "out"_a, "stream"_a, release, "take for many tensors in one launch.");
}

}  // namespace

#ifndef PPF_CUDA_MODULE  // the same binding under another name: _cuda_jit, _cuda_emu
#define PPF_CUDA_MODULE _cuda
#endif

PYBIND11_MODULE(PPF_CUDA_MODULE, m) {
  m.doc() = "CUDA kernels of pyprune_fast. Called by pyprune_fast.ops, which checks arguments and allocates results.";
  def_counts(m);
  def_pairs(m);
  def_take(m);
  m.def("describe", &ppf::binding::describe, "x"_a, "What the binding sees of a tensor: for tests and bug reports.");
  m.def(
      "set_trial_kernels", [](bool on) { ppf::cuda::trial_kernels = on; }, "on"_a,
      "Kernels that no device has confirmed yet (cuda/device.h): for tests and benchmarks.");
  m.def("device_status", [] {
    const auto status = ppf::cuda::device_status();
    return py::dict("count"_a = status.count, "reason"_a = status.reason, "runtime"_a = status.runtime,
                    "driver"_a = status.driver);
  });
}
