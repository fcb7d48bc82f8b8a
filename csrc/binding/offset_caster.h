// (d, h, w) tuple -> Offset.
#pragma once

#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <array>

#include "../core/offset.h"

namespace pybind11::detail {

template <>
struct type_caster<ppf::Offset> {
  PYBIND11_TYPE_CASTER(ppf::Offset, const_name("tuple[int, int, int]"));

  bool load(handle source, bool convert) {
    make_caster<std::array<int64_t, 3>> offset;
    if (!offset.load(source, convert)) return false;
    const auto [d, h, w] = cast_op<std::array<int64_t, 3>&>(offset);
    value = {d, h, w};
    return true;
  }
};

}  // namespace pybind11::detail
