#include "dispatch/dispatch.h"

#include <atomic>
#include <mutex>
#include <stdexcept>

namespace fastnn {

#define FASTNN_DECLARE(isa)          \
  namespace isa {                    \
  const KernelTable& kernel_table(); \
  }
#if defined(__x86_64__)
FASTNN_DECLARE(avx512)
FASTNN_DECLARE(avx2)
FASTNN_DECLARE(baseline)
#elif defined(__aarch64__)
FASTNN_DECLARE(neon)
#else
#error "fastnn knows x86-64 and aarch64"
#endif

namespace {

std::atomic<const KernelTable*> active{nullptr};

std::string names_of(bool only_supported) {
  std::string names;
  for (const Isa& isa : built_isas())
    if (isa.supported || !only_supported) names += (names.empty() ? "" : ", ") + std::string(isa.name);
  return names;
}

}  // namespace

const std::vector<Isa>& built_isas() {
#if defined(__x86_64__)
  // __builtin_cpu_supports also asks the operating system (XGETBV) whether it saves the wide registers.
  static const bool has_avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  static const bool has_avx512 = has_avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                                 __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
  static const std::vector<Isa> isas = {{"avx512", has_avx512, avx512::kernel_table},
                                        {"avx2", has_avx2, avx2::kernel_table},
                                        {"baseline", true, baseline::kernel_table}};
#else
  static const std::vector<Isa> isas = {{"neon", true, neon::kernel_table}};
#endif
  return isas;
}

const KernelTable& active_table() noexcept { return *active.load(std::memory_order_relaxed); }

void use_isa(const std::string& name) {
  static std::mutex filling;  // a table is filled when it is first asked for
  const std::lock_guard<std::mutex> lock(filling);
  for (const Isa& isa : built_isas()) {
    if (name != isa.name) continue;
    if (!isa.supported) throw std::invalid_argument("FASTNN_ISA: this processor has no " + name + "; it runs " + names_of(true));
    active.store(&isa.table(), std::memory_order_relaxed);
    return;
  }
  throw std::invalid_argument("FASTNN_ISA: expected one of " + names_of(false) + ", got '" + name + "'");
}

void use_best_isa() {
  for (const Isa& isa : built_isas())
    if (isa.supported) return use_isa(isa.name);
}

}  // namespace fastnn
