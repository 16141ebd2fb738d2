// What the machine can do at most: the probe behind every "share of the peak" in the benchmarks.
#include "kernels/parts.h"
#include "simd/simd.h"

namespace fastnn::FASTNN_TARGET {
namespace {

// Independent chains of fma in registers, enough to hide the latency of two units; returns the flops done. `sink` keeps the work
// alive.
template <class T>
double fma_chains(Index rounds, T* sink) {
  constexpr int kChains = kRegs == 1 ? 12 : kRegs == 2 ? 5 : 2;
  Vec<T> x[kChains];
  FASTNN_EACH (c, kChains) x[c] = set1(T(c));
  Vec<T> a = set1(T(0.5)), b = set1(T(1));
  for (Index i = 0; i < rounds; ++i) {
    FASTNN_EACH (c, kChains) x[c] = fma(x[c], a, b);
    FASTNN_EACH_REG (r) asm volatile("" : "+" FASTNN_VECTOR_REGISTER(a.r[r]));  // not to be computed in closed form
  }
  Vec<T> sum = x[0];
  for (int c = 1; c < kChains; ++c) sum = sum + x[c];
  store(sink, sum);
  return 2.0 * kChains * kLanes<T> * static_cast<double>(rounds);
}

}  // namespace

template <class T>
void fill_probes(Kernels<T>& table) {
  table.fma_chains = fma_chains<T>;
}
template void fill_probes(Kernels<float>&);
template void fill_probes(Kernels<double>&);

}  // namespace fastnn::FASTNN_TARGET
