#pragma once
// Which kernels this process uses: the best that the processor runs, or the one that FASTNN_ISA names.
#include <string>
#include <vector>

#include "kernels/table.h"

namespace fastnn {

struct Isa {
  const char* name;
  bool supported;  // by this processor
  const KernelTable& (*table)();
};

const std::vector<Isa>& built_isas();  // best first
const KernelTable& active_table() noexcept;

// Throws std::invalid_argument where the name is unknown or the processor lacks the ISA; nothing changes then.
void use_isa(const std::string& name);
void use_best_isa();

template <class T>
const Kernels<T>& kernels() noexcept;
template <>
inline const Kernels<float>& kernels<float>() noexcept {
  return active_table().f32;
}
template <>
inline const Kernels<double>& kernels<double>() noexcept {
  return active_table().f64;
}

}  // namespace fastnn
