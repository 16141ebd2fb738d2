#pragma once
// AVX2 + FMA: a vector is two 32-byte registers.
#include <immintrin.h>

#include "simd/x86.h"

namespace fastnn::FASTNN_TARGET { namespace {

constexpr int kRegisterBytes = 32;
constexpr int kRegisters = 16;
constexpr bool kFused = true;  // fma rounds once

FASTNN_INLINE Reg<float> fma(Reg<float> a, Reg<float> b, Reg<float> c) { return _mm256_fmadd_ps(a, b, c); }
FASTNN_INLINE Reg<double> fma(Reg<double> a, Reg<double> b, Reg<double> c) { return _mm256_fmadd_pd(a, b, c); }
FASTNN_INLINE Reg<float> max(Reg<float> a, Reg<float> b) { return _mm256_max_ps(a, b); }
FASTNN_INLINE Reg<double> max(Reg<double> a, Reg<double> b) { return _mm256_max_pd(a, b); }
FASTNN_INLINE Reg<float> min(Reg<float> a, Reg<float> b) { return _mm256_min_ps(a, b); }
FASTNN_INLINE Reg<double> min(Reg<double> a, Reg<double> b) { return _mm256_min_pd(a, b); }
FASTNN_INLINE Reg<float> sqrt(Reg<float> a) { return _mm256_sqrt_ps(a); }
FASTNN_INLINE Reg<double> sqrt(Reg<double> a) { return _mm256_sqrt_pd(a); }

// A window that slides over this table gives the first n lanes of a register.
alignas(64) constexpr int32_t kLaneWindow[16] = {-1, -1, -1, -1, -1, -1, -1, -1, 0, 0, 0, 0, 0, 0, 0, 0};
FASTNN_INLINE __m256i first_lanes(int words) {
  return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(kLaneWindow + 8 - words));
}
FASTNN_INLINE void load_first(const float* p, int n, Reg<float>& to) { to = _mm256_maskload_ps(p, first_lanes(n)); }
FASTNN_INLINE void load_first(const double* p, int n, Reg<double>& to) { to = _mm256_maskload_pd(p, first_lanes(2 * n)); }
// In pieces: a masked store takes 12 cycles on Zen 4, a plain one takes one.
FASTNN_INLINE void store_first(float* p, Reg<float> v, int n) {
  if (n == 8) return _mm256_storeu_ps(p, v);
  __m128 part = _mm256_castps256_ps128(v);
  if (n & 4) {
    _mm_storeu_ps(p, part);
    part = _mm256_extractf128_ps(v, 1);
    p += 4;
  }
  if (n & 2) {
    _mm_storel_pi(reinterpret_cast<__m64*>(p), part);
    part = _mm_movehl_ps(part, part);
    p += 2;
  }
  if (n & 1) _mm_store_ss(p, part);
}
FASTNN_INLINE void store_first(double* p, Reg<double> v, int n) {
  if (n == 4) return _mm256_storeu_pd(p, v);
  __m128d part = _mm256_castpd256_pd128(v);
  if (n & 2) {
    _mm_storeu_pd(p, part);
    part = _mm256_extractf128_pd(v, 1);
    p += 2;
  }
  if (n & 1) _mm_store_sd(p, part);
}

// Past the caches; p at a 64-byte boundary. Seen by other threads after stream_end.
FASTNN_INLINE void stream(float* p, Reg<float> v) { _mm256_stream_ps(p, v); }
FASTNN_INLINE void stream(double* p, Reg<double> v) { _mm256_stream_pd(p, v); }
FASTNN_INLINE void stream_end() { _mm_sfence(); }

FASTNN_INLINE unsigned mask_bits(RegMask<float> m) {
  return static_cast<unsigned>(_mm256_movemask_ps(reinterpret_cast<__m256>(m)));
}
FASTNN_INLINE unsigned mask_bits(RegMask<double> m) {
  return static_cast<unsigned>(_mm256_movemask_pd(reinterpret_cast<__m256d>(m)));
}

// A square of registers, row by row, becomes its columns.
FASTNN_INLINE void turn(Reg<float> (&r)[8]) {
  __m256 t[8];
  const auto low = [](__m256 a, __m256 b) {
    return _mm256_castpd_ps(_mm256_unpacklo_pd(_mm256_castps_pd(a), _mm256_castps_pd(b)));
  };
  const auto high = [](__m256 a, __m256 b) {
    return _mm256_castpd_ps(_mm256_unpackhi_pd(_mm256_castps_pd(a), _mm256_castps_pd(b)));
  };
  for (int i = 0; i < 8; i += 4) {  // half h of t[i + s] is column 4h + s of rows i to i + 3
    const __m256 a = _mm256_unpacklo_ps(r[i], r[i + 1]), b = _mm256_unpackhi_ps(r[i], r[i + 1]);
    const __m256 c = _mm256_unpacklo_ps(r[i + 2], r[i + 3]), d = _mm256_unpackhi_ps(r[i + 2], r[i + 3]);
    t[i] = low(a, c);
    t[i + 1] = high(a, c);
    t[i + 2] = low(b, d);
    t[i + 3] = high(b, d);
  }
  for (int s = 0; s < 4; ++s) {
    r[s] = _mm256_permute2f128_ps(t[s], t[4 + s], 0x20);
    r[4 + s] = _mm256_permute2f128_ps(t[s], t[4 + s], 0x31);
  }
}
FASTNN_INLINE void turn(Reg<double> (&r)[4]) {
  const __m256d a = _mm256_unpacklo_pd(r[0], r[1]), b = _mm256_unpackhi_pd(r[0], r[1]);
  const __m256d c = _mm256_unpacklo_pd(r[2], r[3]), d = _mm256_unpackhi_pd(r[2], r[3]);
  r[0] = _mm256_permute2f128_pd(a, c, 0x20);
  r[1] = _mm256_permute2f128_pd(b, d, 0x20);
  r[2] = _mm256_permute2f128_pd(a, c, 0x31);
  r[3] = _mm256_permute2f128_pd(b, d, 0x31);
}

// to[p*16 + j] = from[j*from_stride + p] for j < 16, p < 4: halves of registers are gathered by load, then transposed in place.
FASTNN_INLINE __m256 halves(const float* p, Index stride) {
  return _mm256_insertf128_ps(_mm256_castps128_ps256(_mm_loadu_ps(p)), _mm_loadu_ps(p + stride), 1);
}
FASTNN_INLINE void transpose_strip(const float* from, Index from_stride, float* to) {
  for (int half = 0; half < 2; ++half, from += 8 * from_stride, to += 8) {
    const __m256 a = halves(from, 4 * from_stride), b = halves(from + from_stride, 4 * from_stride);
    const __m256 c = halves(from + 2 * from_stride, 4 * from_stride), d = halves(from + 3 * from_stride, 4 * from_stride);
    const __m256d ab_low = _mm256_castps_pd(_mm256_unpacklo_ps(a, b)), ab_high = _mm256_castps_pd(_mm256_unpackhi_ps(a, b));
    const __m256d cd_low = _mm256_castps_pd(_mm256_unpacklo_ps(c, d)), cd_high = _mm256_castps_pd(_mm256_unpackhi_ps(c, d));
    _mm256_storeu_ps(to, _mm256_castpd_ps(_mm256_unpacklo_pd(ab_low, cd_low)));
    _mm256_storeu_ps(to + 16, _mm256_castpd_ps(_mm256_unpackhi_pd(ab_low, cd_low)));
    _mm256_storeu_ps(to + 32, _mm256_castpd_ps(_mm256_unpacklo_pd(ab_high, cd_high)));
    _mm256_storeu_ps(to + 48, _mm256_castpd_ps(_mm256_unpackhi_pd(ab_high, cd_high)));
  }
}
// The same for doubles: j < 8, p < 2.
FASTNN_INLINE void transpose_strip(const double* from, Index from_stride, double* to) {
  for (int j = 0; j < 8; j += 2) transpose_block(from + j * from_stride, from_stride, to + j, 8);
}

// The products of the low halves of lanes.
FASTNN_INLINE Reg<uint64_t> multiply_low(Reg<uint64_t> a, Reg<uint64_t> b) {
  return reinterpret_cast<Reg<uint64_t>>(_mm256_mul_epu32(reinterpret_cast<__m256i>(a), reinterpret_cast<__m256i>(b)));
}

// The lanes of a vector folded into a quarter by an operation: (q0 op q2) op (q1 op q3).
template <class Op>
FASTNN_INLINE Quarter<float> fold(const Reg<float> (&r)[2], Op op) {
  const __m256 half = op(r[0], r[1]);
  return op(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1));
}
template <class Op>
FASTNN_INLINE Quarter<double> fold(const Reg<double> (&r)[2], Op op) {
  const __m256d half = op(r[0], r[1]);
  return op(_mm256_castpd256_pd128(half), _mm256_extractf128_pd(half, 1));
}

}}  // namespace fastnn::FASTNN_TARGET
