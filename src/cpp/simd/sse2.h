#pragma once
// The x86-64 baseline, SSE2: a vector is four 16-byte registers. There is no fused multiply-add: fma rounds twice here, the one
// place where an ISA's bits differ from the others'.
#include <emmintrin.h>

#include "simd/x86.h"

namespace fastnn::FASTNN_TARGET { namespace {

constexpr int kRegisterBytes = 16;
constexpr int kRegisters = 16;
constexpr bool kFused = false;  // fma rounds once

FASTNN_INLINE Reg<float> fma(Reg<float> a, Reg<float> b, Reg<float> c) { return a * b + c; }
FASTNN_INLINE Reg<double> fma(Reg<double> a, Reg<double> b, Reg<double> c) { return a * b + c; }
FASTNN_INLINE Reg<float> max(Reg<float> a, Reg<float> b) { return _mm_max_ps(a, b); }
FASTNN_INLINE Reg<double> max(Reg<double> a, Reg<double> b) { return _mm_max_pd(a, b); }
FASTNN_INLINE Reg<float> min(Reg<float> a, Reg<float> b) { return _mm_min_ps(a, b); }
FASTNN_INLINE Reg<double> min(Reg<double> a, Reg<double> b) { return _mm_min_pd(a, b); }
FASTNN_INLINE Reg<float> sqrt(Reg<float> a) { return _mm_sqrt_ps(a); }
FASTNN_INLINE Reg<double> sqrt(Reg<double> a) { return _mm_sqrt_pd(a); }

template <class T, class R>
FASTNN_INLINE void load_first(const T* p, int n, R& to) {
  R v{};
  for (int i = 0; i < n; ++i) v[i] = p[i];
  to = v;
}
template <class T, class R>
FASTNN_INLINE void store_first(T* p, R v, int n) {
  for (int i = 0; i < n; ++i) p[i] = v[i];
}

FASTNN_INLINE unsigned mask_bits(RegMask<float> m) { return static_cast<unsigned>(_mm_movemask_ps(reinterpret_cast<__m128>(m))); }
FASTNN_INLINE unsigned mask_bits(RegMask<double> m) {
  return static_cast<unsigned>(_mm_movemask_pd(reinterpret_cast<__m128d>(m)));
}

// to[p*kLanes + j] = from[j*from_stride + p] for the kLanes rows of a vector and p < kTransposeBlock.
template <class T>
FASTNN_INLINE void transpose_strip(const T* from, Index from_stride, T* to) {
  constexpr int S = kTransposeBlock<T>, L = 64 / static_cast<int>(sizeof(T));
  for (int j = 0; j < L; j += S) transpose_block(from + j * from_stride, from_stride, to + j, L);
}

// High and low halves of the 64-bit products of unsigned 32-bit lanes.
FASTNN_INLINE void multiply_wide(Reg<uint32_t> a, Reg<uint32_t> b, Reg<uint32_t>& high, Reg<uint32_t>& low) {
  const __m128i x = reinterpret_cast<__m128i>(a), y = reinterpret_cast<__m128i>(b);
  const __m128i even = _mm_mul_epu32(x, y);
  const __m128i odd = _mm_mul_epu32(_mm_srli_epi64(x, 32), _mm_srli_epi64(y, 32));
  const __m128i keep = _mm_set1_epi64x(0xffffffff);
  high = reinterpret_cast<Reg<uint32_t>>(_mm_or_si128(_mm_srli_epi64(even, 32), _mm_andnot_si128(keep, odd)));
  low = reinterpret_cast<Reg<uint32_t>>(_mm_or_si128(_mm_and_si128(even, keep), _mm_slli_epi64(odd, 32)));
}

// The lanes of a vector folded into a quarter: (q0 + q2) + (q1 + q3).
FASTNN_INLINE Quarter<float> fold(const Reg<float> (&r)[4]) { return (r[0] + r[2]) + (r[1] + r[3]); }
FASTNN_INLINE Quarter<double> fold(const Reg<double> (&r)[4]) { return (r[0] + r[2]) + (r[1] + r[3]); }

}}  // namespace fastnn::FASTNN_TARGET
