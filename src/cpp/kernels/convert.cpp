// Numbers of other types as T, times a factor, each operation rounded once. Plain loops, which compilers vectorise.
#include "kernels/parts.h"
#include "simd/simd.h"

namespace fastnn::FASTNN_TARGET {
namespace {

template <class From, class T>
void convert(const From* from, T scale, Index n, T* to) {
  if (scale == T(1))
    for (Index i = 0; i < n; ++i) to[i] = static_cast<T>(from[i]);
  else
    for (Index i = 0; i < n; ++i) to[i] = static_cast<T>(from[i]) * scale;
}

}  // namespace

template <class T>
void fill_convert(Kernels<T>& table) {
  table.convert_f32 = convert<float, T>;
  table.convert_f64 = convert<double, T>;
  table.convert_u8 = convert<uint8_t, T>;
  table.convert_i32 = convert<int32_t, T>;
  table.convert_i64 = convert<int64_t, T>;
}
template void fill_convert(Kernels<float>&);
template void fill_convert(Kernels<double>&);

}  // namespace fastnn::FASTNN_TARGET
