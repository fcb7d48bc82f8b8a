// "plug-in" etc. -> Correction.
#pragma once

#include <pybind11/pybind11.h>

#include <string_view>

#include "../core/correction.h"

namespace pybind11::detail {

template <>
struct type_caster<ppf::Correction> {
  PYBIND11_TYPE_CASTER(ppf::Correction, const_name("str"));

  bool load(handle source, bool convert) {
    make_caster<std::string_view> name;
    if (!name.load(source, convert)) return false;
    value = ppf::correction_named(cast_op<std::string_view>(name));
    return true;
  }
};

}  // namespace pybind11::detail
