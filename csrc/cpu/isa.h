// The SIMD level in use: the highest that CPU and system offer, or the one that PYPRUNE_FAST_ISA names.
#pragma once

#include <string_view>

namespace ppf::cpu {

// Each includes those before it. avx512 is Skylake's, vbmi adds Ice Lake's VBMI, VBMI2 and VPOPCNTDQ (Zen 4 has them
// too).
enum class Isa { portable, avx2, avx512, vbmi, amx };

inline constexpr const char* kIsaNames[] = {"portable", "avx2", "avx512", "vbmi", "amx"};

// The highest level of this machine. AMX needs the system's permission, which is asked for once.
Isa highest_isa();

Isa active_isa();
inline const char* active_isa_name() { return kIsaNames[static_cast<int>(active_isa())]; }

// Throws std::invalid_argument for an unknown name and for a level that this machine lacks.
void set_isa(std::string_view name);

}  // namespace ppf::cpu
