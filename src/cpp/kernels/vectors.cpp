// Plain vector work: scaling, adding, the sum of squares behind a norm.
#include "kernels/parts.h"
#include "simd/simd.h"

namespace fastnn::FASTNN_TARGET {
namespace {

template <class T>
void scale(const T* x, T factor, Index n, T* y) {
  const Vec<T> f = set1(factor);
  each_line<T>(y, n, [&](Index i, auto lanes) FASTNN_LAMBDA { store(y + i, load(x + i, lanes) * f, lanes); });
}

template <class T>
void add(const T* x, const T* z, Index n, T* y) {
  each_vector<T>(n, [&](Index i, auto lanes) FASTNN_LAMBDA { store(y + i, load(x + i, lanes) + load(z + i, lanes), lanes); });
}

template <class T>
void blend(const T* x, T share, T rest, Index n, T* y) {
  const Vec<T> s = set1(share), r = set1(rest);
  each_vector<T>(
      n, [&](Index i, auto lanes) FASTNN_LAMBDA { store(y + i, fma(s, load(x + i, lanes), r * load(y + i, lanes)), lanes); });
}

// In double throughout, so that no float32 gradient overflows; eight partial sums that the compiler keeps in vectors.
template <class T>
double sum_of_squares(const T* x, Index n) {
  double sums[8] = {};
  Index i = 0;
  for (; i + 8 <= n; i += 8)
    FASTNN_EACH (l, 8) {
      const double v = static_cast<double>(x[i + l]);
      sums[l] += v * v;
    }
  for (int l = 0; i < n; ++i, ++l) sums[l] += static_cast<double>(x[i]) * static_cast<double>(x[i]);
  return ((sums[0] + sums[4]) + (sums[2] + sums[6])) + ((sums[1] + sums[5]) + (sums[3] + sums[7]));
}

}  // namespace

template <class T>
void fill_vectors(Kernels<T>& table) {
  table.scale = scale<T>;
  table.add = add<T>;
  table.blend = blend<T>;
  table.sum_of_squares = sum_of_squares<T>;
}
template void fill_vectors(Kernels<float>&);
template void fill_vectors(Kernels<double>&);

}  // namespace fastnn::FASTNN_TARGET
