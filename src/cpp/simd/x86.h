#pragma once
// What every x86 backend shares: small transposes, and sums of lanes, in SSE registers.
#include <emmintrin.h>

namespace fastnn::FASTNN_TARGET { namespace {

// to[p*to_stride + j] = from[j*from_stride + p] for a square of kTransposeBlock numbers a side.
template <class T>
constexpr int kTransposeBlock = 16 / static_cast<int>(sizeof(T));
FASTNN_INLINE void transpose_block(const float* from, Index from_stride, float* to, Index to_stride) {
  __m128 a = _mm_loadu_ps(from), b = _mm_loadu_ps(from + from_stride);
  __m128 c = _mm_loadu_ps(from + 2 * from_stride), d = _mm_loadu_ps(from + 3 * from_stride);
  _MM_TRANSPOSE4_PS(a, b, c, d);
  _mm_storeu_ps(to, a);
  _mm_storeu_ps(to + to_stride, b);
  _mm_storeu_ps(to + 2 * to_stride, c);
  _mm_storeu_ps(to + 3 * to_stride, d);
}
FASTNN_INLINE void transpose_block(const double* from, Index from_stride, double* to, Index to_stride) {
  const __m128d a = _mm_loadu_pd(from), b = _mm_loadu_pd(from + from_stride);
  _mm_storeu_pd(to, _mm_unpacklo_pd(a, b));
  _mm_storeu_pd(to + to_stride, _mm_unpackhi_pd(a, b));
}

// Lane e of the result is the sum of row e's lanes, (0 + 2) + (1 + 3).
FASTNN_INLINE Quarter<float> sum_rows(const Quarter<float> (&row)[4]) {
  __m128 a = row[0], b = row[1], c = row[2], d = row[3];
  _MM_TRANSPOSE4_PS(a, b, c, d);
  return (a + c) + (b + d);
}
FASTNN_INLINE Quarter<double> sum_rows(const Quarter<double> (&row)[2]) {
  return _mm_unpacklo_pd(row[0], row[1]) + _mm_unpackhi_pd(row[0], row[1]);
}

}}  // namespace fastnn::FASTNN_TARGET
