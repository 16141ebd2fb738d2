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
FASTNN_INLINE Reg<float> load_first(const float* p, int n) { return _mm512_maskz_loadu_ps(first(n), p); }
FASTNN_INLINE Reg<double> load_first(const double* p, int n) { return _mm512_maskz_loadu_pd(static_cast<__mmask8>(first(n)), p); }
FASTNN_INLINE void store_first(float* p, Reg<float> v, int n) { _mm512_mask_storeu_ps(p, first(n), v); }
FASTNN_INLINE void store_first(double* p, Reg<double> v, int n) { _mm512_mask_storeu_pd(p, static_cast<__mmask8>(first(n)), v); }

FASTNN_INLINE unsigned mask_bits(RegMask<float> m) { return _mm512_movepi32_mask(reinterpret_cast<__m512i>(m)); }
FASTNN_INLINE unsigned mask_bits(RegMask<double> m) { return _mm512_movepi64_mask(reinterpret_cast<__m512i>(m)); }

// High and low halves of the 64-bit products of unsigned 32-bit lanes.
FASTNN_INLINE void multiply_wide(Reg<uint32_t> a, Reg<uint32_t> b, Reg<uint32_t>& high, Reg<uint32_t>& low) {
  const __m512i x = reinterpret_cast<__m512i>(a), y = reinterpret_cast<__m512i>(b);
  const __m512i even = _mm512_mul_epu32(x, y);
  const __m512i odd = _mm512_mul_epu32(_mm512_srli_epi64(x, 32), _mm512_srli_epi64(y, 32));
  high = reinterpret_cast<Reg<uint32_t>>(_mm512_mask_blend_epi32(0xaaaa, _mm512_srli_epi64(even, 32), odd));
  low = a * b;
}

}}  // namespace fastnn::FASTNN_TARGET
