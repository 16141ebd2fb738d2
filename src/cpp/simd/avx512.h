#pragma once
// AVX-512 (F, BW, DQ, VL): a vector is one 64-byte register, a partial access one mask.
#include <immintrin.h>

#include "simd/x86.h"

namespace fastnn::FASTNN_TARGET { namespace {

constexpr int kRegisterBytes = 64;
constexpr int kRegisters = 32;
constexpr bool kFused = true;  // fma rounds once

FASTNN_INLINE Reg<float> fma(Reg<float> a, Reg<float> b, Reg<float> c) { return _mm512_fmadd_ps(a, b, c); }
FASTNN_INLINE Reg<double> fma(Reg<double> a, Reg<double> b, Reg<double> c) { return _mm512_fmadd_pd(a, b, c); }
FASTNN_INLINE Reg<float> max(Reg<float> a, Reg<float> b) { return _mm512_max_ps(a, b); }
FASTNN_INLINE Reg<double> max(Reg<double> a, Reg<double> b) { return _mm512_max_pd(a, b); }
FASTNN_INLINE Reg<float> min(Reg<float> a, Reg<float> b) { return _mm512_min_ps(a, b); }
FASTNN_INLINE Reg<double> min(Reg<double> a, Reg<double> b) { return _mm512_min_pd(a, b); }
FASTNN_INLINE Reg<float> sqrt(Reg<float> a) { return _mm512_sqrt_ps(a); }
FASTNN_INLINE Reg<double> sqrt(Reg<double> a) { return _mm512_sqrt_pd(a); }

FASTNN_INLINE __mmask16 first(int n) { return static_cast<__mmask16>((1u << n) - 1u); }
FASTNN_INLINE void load_first(const float* p, int n, Reg<float>& to) { to = _mm512_maskz_loadu_ps(first(n), p); }
FASTNN_INLINE void load_first(const double* p, int n, Reg<double>& to) {
  to = _mm512_maskz_loadu_pd(static_cast<__mmask8>(first(n)), p);
}
FASTNN_INLINE void store_first(float* p, Reg<float> v, int n) { _mm512_mask_storeu_ps(p, first(n), v); }
FASTNN_INLINE void store_first(double* p, Reg<double> v, int n) { _mm512_mask_storeu_pd(p, static_cast<__mmask8>(first(n)), v); }

FASTNN_INLINE HalfReg<float> fma(HalfReg<float> a, HalfReg<float> b, HalfReg<float> c) { return _mm256_fmadd_ps(a, b, c); }
FASTNN_INLINE HalfReg<double> fma(HalfReg<double> a, HalfReg<double> b, HalfReg<double> c) { return _mm256_fmadd_pd(a, b, c); }
FASTNN_INLINE void load_first(const float* p, int n, HalfReg<float>& to) {
  to = _mm256_maskz_loadu_ps(static_cast<__mmask8>(first(n)), p);
}
FASTNN_INLINE void load_first(const double* p, int n, HalfReg<double>& to) {
  to = _mm256_maskz_loadu_pd(static_cast<__mmask8>(first(n)), p);
}
FASTNN_INLINE void store_first(float* p, HalfReg<float> v, int n) {
  _mm256_mask_storeu_ps(p, static_cast<__mmask8>(first(n)), v);
}
FASTNN_INLINE void store_first(double* p, HalfReg<double> v, int n) {
  _mm256_mask_storeu_pd(p, static_cast<__mmask8>(first(n)), v);
}

// Past the caches; p at a 64-byte boundary. Seen by other threads after stream_end.
FASTNN_INLINE void stream(float* p, Reg<float> v) { _mm512_stream_ps(p, v); }
FASTNN_INLINE void stream(double* p, Reg<double> v) { _mm512_stream_pd(p, v); }
FASTNN_INLINE void stream_end() { _mm_sfence(); }

FASTNN_INLINE unsigned mask_bits(RegMask<float> m) { return _mm512_movepi32_mask(reinterpret_cast<__m512i>(m)); }
FASTNN_INLINE unsigned mask_bits(RegMask<double> m) { return _mm512_movepi64_mask(reinterpret_cast<__m512i>(m)); }

// A square of registers, row by row, becomes its columns.
FASTNN_INLINE void turn(Reg<float> (&r)[16]) {
  __m512 t[16];
  const auto low = [](__m512 a, __m512 b) {
    return _mm512_castpd_ps(_mm512_unpacklo_pd(_mm512_castps_pd(a), _mm512_castps_pd(b)));
  };
  const auto high = [](__m512 a, __m512 b) {
    return _mm512_castpd_ps(_mm512_unpackhi_pd(_mm512_castps_pd(a), _mm512_castps_pd(b)));
  };
  for (int i = 0; i < 16; i += 4) {  // quarter q of r[i + s] becomes column 4q + s of rows i to i + 3
    const __m512 a = _mm512_unpacklo_ps(r[i], r[i + 1]), b = _mm512_unpackhi_ps(r[i], r[i + 1]);
    const __m512 c = _mm512_unpacklo_ps(r[i + 2], r[i + 3]), d = _mm512_unpackhi_ps(r[i + 2], r[i + 3]);
    t[i] = low(a, c);
    t[i + 1] = high(a, c);
    t[i + 2] = low(b, d);
    t[i + 3] = high(b, d);
  }
  for (int s = 0; s < 4; ++s) {
    const __m512 a = _mm512_shuffle_f32x4(t[s], t[4 + s], 0x44), b = _mm512_shuffle_f32x4(t[s], t[4 + s], 0xee);
    const __m512 c = _mm512_shuffle_f32x4(t[8 + s], t[12 + s], 0x44), d = _mm512_shuffle_f32x4(t[8 + s], t[12 + s], 0xee);
    r[s] = _mm512_shuffle_f32x4(a, c, 0x88);
    r[4 + s] = _mm512_shuffle_f32x4(a, c, 0xdd);
    r[8 + s] = _mm512_shuffle_f32x4(b, d, 0x88);
    r[12 + s] = _mm512_shuffle_f32x4(b, d, 0xdd);
  }
}
FASTNN_INLINE void turn(Reg<double> (&r)[8]) {
  __m512d t[8];
  for (int i = 0; i < 8; i += 2) {  // quarter q of t[i + s] is column 2q + s of rows i and i + 1
    t[i] = _mm512_unpacklo_pd(r[i], r[i + 1]);
    t[i + 1] = _mm512_unpackhi_pd(r[i], r[i + 1]);
  }
  for (int s = 0; s < 2; ++s) {
    const __m512d a = _mm512_shuffle_f64x2(t[s], t[2 + s], 0x44), b = _mm512_shuffle_f64x2(t[s], t[2 + s], 0xee);
    const __m512d c = _mm512_shuffle_f64x2(t[4 + s], t[6 + s], 0x44), d = _mm512_shuffle_f64x2(t[4 + s], t[6 + s], 0xee);
    r[s] = _mm512_shuffle_f64x2(a, c, 0x88);
    r[2 + s] = _mm512_shuffle_f64x2(a, c, 0xdd);
    r[4 + s] = _mm512_shuffle_f64x2(b, d, 0x88);
    r[6 + s] = _mm512_shuffle_f64x2(b, d, 0xdd);
  }
}

// to[p*16 + j] = from[j*from_stride + p] for j < 16, p < 4: quarters of registers are gathered by load, then transposed in place.
FASTNN_INLINE __m512 quarters(const float* p, Index stride) {
  __m512 v = _mm512_castps128_ps512(_mm_loadu_ps(p));
  v = _mm512_insertf32x4(v, _mm_loadu_ps(p + stride), 1);
  v = _mm512_insertf32x4(v, _mm_loadu_ps(p + 2 * stride), 2);
  return _mm512_insertf32x4(v, _mm_loadu_ps(p + 3 * stride), 3);
}
FASTNN_INLINE void transpose_strip(const float* from, Index from_stride, float* to) {
  const __m512 a = quarters(from, 4 * from_stride), b = quarters(from + from_stride, 4 * from_stride);
  const __m512 c = quarters(from + 2 * from_stride, 4 * from_stride), d = quarters(from + 3 * from_stride, 4 * from_stride);
  const __m512d ab_low = _mm512_castps_pd(_mm512_unpacklo_ps(a, b)), ab_high = _mm512_castps_pd(_mm512_unpackhi_ps(a, b));
  const __m512d cd_low = _mm512_castps_pd(_mm512_unpacklo_ps(c, d)), cd_high = _mm512_castps_pd(_mm512_unpackhi_ps(c, d));
  _mm512_storeu_ps(to, _mm512_castpd_ps(_mm512_unpacklo_pd(ab_low, cd_low)));
  _mm512_storeu_ps(to + 16, _mm512_castpd_ps(_mm512_unpackhi_pd(ab_low, cd_low)));
  _mm512_storeu_ps(to + 32, _mm512_castpd_ps(_mm512_unpacklo_pd(ab_high, cd_high)));
  _mm512_storeu_ps(to + 48, _mm512_castpd_ps(_mm512_unpackhi_pd(ab_high, cd_high)));
}
// The same for doubles: j < 8, p < 2.
FASTNN_INLINE __m512d quarters(const double* p, Index stride) {
  __m512d v = _mm512_castpd128_pd512(_mm_loadu_pd(p));
  v = _mm512_insertf64x2(v, _mm_loadu_pd(p + stride), 1);
  v = _mm512_insertf64x2(v, _mm_loadu_pd(p + 2 * stride), 2);
  return _mm512_insertf64x2(v, _mm_loadu_pd(p + 3 * stride), 3);
}
FASTNN_INLINE void transpose_strip(const double* from, Index from_stride, double* to) {
  const __m512d a = quarters(from, 2 * from_stride), b = quarters(from + from_stride, 2 * from_stride);
  _mm512_storeu_pd(to, _mm512_unpacklo_pd(a, b));
  _mm512_storeu_pd(to + 8, _mm512_unpackhi_pd(a, b));
}

// The products of the low halves of lanes.
FASTNN_INLINE Reg<uint64_t> multiply_low(Reg<uint64_t> a, Reg<uint64_t> b) {
  return reinterpret_cast<Reg<uint64_t>>(_mm512_mul_epu32(reinterpret_cast<__m512i>(a), reinterpret_cast<__m512i>(b)));
}

// out[e] = the sum of the lanes of row[e], in the order of fold() and sum_rows(), for 16 rows at once: three shuffles a row
// instead of five, of which half are of whole registers.
FASTNN_INLINE void sum_lanes(const Reg<float> (&row)[16], float* out) {
  __m512 folded[4];  // quarter q of folded[i] is that of row 4i + q
  for (int i = 0; i < 4; ++i) {
    const auto halves = [](__m512 a, __m512 b) { return _mm512_shuffle_f32x4(a, b, 0x44) + _mm512_shuffle_f32x4(a, b, 0xee); };
    const __m512 ab = halves(row[4 * i], row[4 * i + 1]), cd = halves(row[4 * i + 2], row[4 * i + 3]);
    folded[i] = _mm512_shuffle_f32x4(ab, cd, 0x88) + _mm512_shuffle_f32x4(ab, cd, 0xdd);
  }
  const auto pairs = [](__m512 a, __m512 b) {
    const __m512d x = _mm512_castps_pd(a), y = _mm512_castps_pd(b);
    return _mm512_castpd_ps(_mm512_unpacklo_pd(x, y)) + _mm512_castpd_ps(_mm512_unpackhi_pd(x, y));
  };
  const __m512 low = pairs(folded[0], folded[1]), high = pairs(folded[2], folded[3]);
  const __m512 sums = _mm512_shuffle_ps(low, high, 0x88) + _mm512_shuffle_ps(low, high, 0xdd);  // lane 4q + i: row 4i + q
  const __m512i in_order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
  _mm512_storeu_ps(out, _mm512_permutexvar_ps(in_order, sums));
}

// The lanes of a vector folded into a quarter by an operation: (q0 op q2) op (q1 op q3).
template <class Op>
FASTNN_INLINE Quarter<float> fold(const Reg<float> (&r)[1], Op op) {
  const __m256 half = op(_mm512_castps512_ps256(r[0]), _mm512_extractf32x8_ps(r[0], 1));
  return op(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1));
}
template <class Op>
FASTNN_INLINE Quarter<double> fold(const Reg<double> (&r)[1], Op op) {
  const __m256d half = op(_mm512_castpd512_pd256(r[0]), _mm512_extractf64x4_pd(r[0], 1));
  return op(_mm256_castpd256_pd128(half), _mm256_extractf128_pd(half, 1));
}

}}  // namespace fastnn::FASTNN_TARGET
