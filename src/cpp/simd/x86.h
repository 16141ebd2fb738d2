#pragma once
// What every x86 backend shares: small transposes out of SSE registers.
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

}}  // namespace fastnn::FASTNN_TARGET
