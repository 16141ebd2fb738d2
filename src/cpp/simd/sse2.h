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

// Past the caches; p at a 64-byte boundary. Seen by other threads after stream_end.
FASTNN_INLINE void stream(float* p, Reg<float> v) { _mm_stream_ps(p, v); }
FASTNN_INLINE void stream(double* p, Reg<double> v) { _mm_stream_pd(p, v); }
FASTNN_INLINE void stream_end() { _mm_sfence(); }

FASTNN_INLINE unsigned mask_bits(RegMask<float> m) { return static_cast<unsigned>(_mm_movemask_ps(reinterpret_cast<__m128>(m))); }
FASTNN_INLINE unsigned mask_bits(RegMask<double> m) {
  return static_cast<unsigned>(_mm_movemask_pd(reinterpret_cast<__m128d>(m)));
}

// A square of registers, row by row, becomes its columns.
FASTNN_INLINE void turn(Reg<float> (&r)[4]) { _MM_TRANSPOSE4_PS(r[0], r[1], r[2], r[3]); }
FASTNN_INLINE void turn(Reg<double> (&r)[2]) {
  const __m128d low = _mm_unpacklo_pd(r[0], r[1]), high = _mm_unpackhi_pd(r[0], r[1]);
  r[0] = low;
  r[1] = high;
}

// to[p*kLanes + j] = from[j*from_stride + p] for the kLanes rows of a vector and p < kTransposeBlock.
template <class T>
FASTNN_INLINE void transpose_strip(const T* from, Index from_stride, T* to) {
  constexpr int S = kTransposeBlock<T>, L = 64 / static_cast<int>(sizeof(T));
  for (int j = 0; j < L; j += S) transpose_block(from + j * from_stride, from_stride, to + j, L);
}

// The products of the low halves of lanes.
FASTNN_INLINE Reg<uint64_t> multiply_low(Reg<uint64_t> a, Reg<uint64_t> b) {
  return reinterpret_cast<Reg<uint64_t>>(_mm_mul_epu32(reinterpret_cast<__m128i>(a), reinterpret_cast<__m128i>(b)));
}

// The lanes of a vector folded into a quarter by an operation: (q0 op q2) op (q1 op q3).
template <class Op>
FASTNN_INLINE Quarter<float> fold(const Reg<float> (&r)[4], Op op) {
  return op(op(r[0], r[2]), op(r[1], r[3]));
}
template <class Op>
FASTNN_INLINE Quarter<double> fold(const Reg<double> (&r)[4], Op op) {
  return op(op(r[0], r[2]), op(r[1], r[3]));
}

}}  // namespace fastnn::FASTNN_TARGET
