#include "isa.h"

#include <atomic>
#include <cstdlib>
#include <stdexcept>
#include <string>

#if defined(__x86_64__)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace ppf::cpu {
namespace {

#if defined(__x86_64__)
bool has_f16c() {  // gcc 12 cannot be asked for it by name
  unsigned eax, ebx, ecx, edx;
  return __get_cpuid(1, &eax, &ebx, &ecx, &edx) != 0 && (ecx & bit_F16C) != 0;
}

bool has_amx_int8() {
  unsigned eax, ebx, ecx, edx;
  constexpr unsigned kTile = 1u << 24, kInt8 = 1u << 25;
  if (__get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx) == 0 || (~edx & (kTile | kInt8)) != 0) return false;
  // Linux keeps the tile registers off until a process asks for them, and may refuse.
  constexpr long kRequestPermission = 0x1023, kTileData = 18;
  return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
}

Isa detect() {
  __builtin_cpu_init();
  if (!__builtin_cpu_supports("avx2") || !has_f16c()) return Isa::portable;
  const bool avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
  if (!avx512) return Isa::avx2;
  const bool vbmi = __builtin_cpu_supports("avx512vbmi") && __builtin_cpu_supports("avx512vbmi2") &&
                    __builtin_cpu_supports("avx512vpopcntdq");
  if (!vbmi) return Isa::avx512;
  return has_amx_int8() ? Isa::amx : Isa::vbmi;
}
#else
Isa detect() { return Isa::portable; }
#endif

Isa named(std::string_view name) {
  for (int i = 0; i <= static_cast<int>(highest_isa()); ++i) {
    if (name == kIsaNames[i]) return static_cast<Isa>(i);
  }
  std::string offered;
  for (int i = 0; i <= static_cast<int>(highest_isa()); ++i) offered += std::string(i ? ", " : "") + kIsaNames[i];
  throw std::invalid_argument("PYPRUNE_FAST_ISA: wanted one of " + offered + " on this machine, got '" +
                              std::string(name) + "'");
}

std::atomic<Isa>& active() {
  static std::atomic<Isa> isa = [] {
    const char* forced = std::getenv("PYPRUNE_FAST_ISA");
    return forced != nullptr && *forced != '\0' ? named(forced) : highest_isa();
  }();
  return isa;
}

}  // namespace

Isa highest_isa() {
  static const Isa isa = detect();
  return isa;
}

Isa active_isa() { return active(); }

void set_isa(std::string_view name) { active() = named(name); }

}  // namespace ppf::cpu
