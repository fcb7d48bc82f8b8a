// Module _cpu: what Python can call. One m.def a kernel, no logic; the GIL is released while a kernel runs.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include "../core/aura.h"
#include "../core/entropy.h"
#include "../core/extremes.h"
#include "../core/joint.h"
#include "../core/masked_norm.h"
#include "../core/norms.h"
#include "../core/pairs.h"
#include "../core/take.h"
#include "../cpu/isa.h"
#include "correction_caster.h"
#include "describe.h"
#include "offset_caster.h"
#include "tensor_caster.h"

namespace py = pybind11;
using namespace py::literals;

PYBIND11_MODULE(_cpu, m) {
  m.doc() = "CPU kernels of pyprune_fast. Called by pyprune_fast.ops, which checks arguments and allocates results.";
  const auto release = py::call_guard<py::gil_scoped_release>();
  m.def(
      "aura_counts",
      [](const ppf::TensorView& x, const ppf::TensorView& edges, const std::vector<ppf::Offset>& offsets, bool periodic,
         const std::optional<ppf::TensorView>& labels, const ppf::TensorView& counts, const ppf::TensorView& nans,
         int threads) { ppf::cpu::aura_counts(x, edges, offsets, periodic, labels, counts, nans, threads); },
      "x"_a, "edges"_a, "offsets"_a, "periodic"_a, "labels"_a.none(true), "counts"_a, "nans"_a, "threads"_a, release);
  m.def("entropy", &ppf::cpu::entropy, "counts"_a, "correction"_a, "entropies"_a, "threads"_a, release);
  m.def("information", &ppf::cpu::information, "counts"_a, "correction"_a, "information"_a, "threads"_a, release);
  m.def("extremes", &ppf::cpu::extremes, "x"_a, "low"_a, "high"_a, "nans"_a, "threads"_a, release);
  m.def("joint_counts", &ppf::cpu::joint_counts, "x"_a, "edges"_a, "labels"_a.none(true), "counts"_a, "nans"_a,
        "threads"_a, release);
  m.def("masked_norm", &ppf::cpu::masked_norm, "x"_a, "mask"_a, "weight"_a.none(true), "bias"_a.none(true), "eps"_a,
        "centred"_a, "y"_a, "mean"_a, "variance"_a, "threads"_a, release);
  m.def("masked_norm_backward", &ppf::cpu::masked_norm_backward, "grad"_a, "x"_a, "mask"_a, "weight"_a.none(true),
        "mean"_a, "variance"_a, "eps"_a, "centred"_a, "dx"_a, "dmask"_a, "dweight"_a.none(true), "dbias"_a.none(true),
        "threads"_a, release);
  m.def("norms", &ppf::cpu::norms, "x"_a, "power"_a, "factor"_a.none(true), "rows"_a, "columns"_a, "threads"_a,
        release);
  m.def("pair_counts", &ppf::cpu::pair_counts, "x"_a, "edges"_a, "counts"_a, "nans"_a, "threads"_a, release);
  m.def("pair_information", &ppf::cpu::pair_information, "x"_a, "edges"_a, "correction"_a, "information"_a, "nans"_a,
        "threads"_a, release);
  m.def("take", &ppf::cpu::take, "x"_a, "rows"_a.none(true), "columns"_a.none(true), "out"_a, "threads"_a, release);
  m.def("isa", &ppf::cpu::active_isa_name, "The SIMD level in use.");
  m.def("highest_isa", [] { return ppf::cpu::kIsaNames[static_cast<int>(ppf::cpu::highest_isa())]; });
  m.def("set_isa", &ppf::cpu::set_isa, "name"_a, "Force a SIMD level that this machine has: for tests and benchmarks.");
  m.def("describe", &ppf::binding::describe, "x"_a, "What the binding sees of a tensor: for tests and bug reports.");
}
