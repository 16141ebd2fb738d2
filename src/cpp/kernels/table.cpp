// The table of one ISA.
#include "kernels/parts.h"

#define FASTNN_STRING_OF(x) #x
#define FASTNN_STRING(x) FASTNN_STRING_OF(x)

namespace fastnn::FASTNN_TARGET {
namespace {

constexpr const char* kCompiledFor =
#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512DQ__) && defined(__AVX512VL__)
    "AVX-512 F BW DQ VL";
#elif defined(__AVX2__) && defined(__FMA__)
    "AVX2 FMA";
#elif defined(__aarch64__)
    "NEON";
#elif defined(__SSE2__)
    "SSE2";
#endif

template <class T>
void fill(Kernels<T>& table) {
  fill_gemm(table);
  fill_convert(table);
  fill_dots(table);
  fill_few_rows(table);
  fill_activations(table);
  fill_batchnorm(table);
  fill_dropout(table);
  fill_losses(table);
  fill_optimizers(table);
  fill_probes(table);
  fill_rownorm(table);
  fill_rows(table);
  fill_vectors(table);
}

}  // namespace

const KernelTable& kernel_table() {
  static KernelTable table;
  if (!table.isa) {
    fill(table.f32);
    fill(table.f64);
    table.compiled_for = kCompiledFor;
    table.isa = FASTNN_STRING(FASTNN_TARGET);
  }
  return table;
}

}  // namespace fastnn::FASTNN_TARGET
