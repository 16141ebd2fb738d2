#pragma once
// exp, expm1, tanh, logistic, log1p on [0, 1], and the normal distribution, on vectors, without branches or tables.
//
// Polynomials interpolate at Chebyshev nodes of the interval named (fitted at 50 digits; the error of the fit stands beside
// each). Subnormal results are flushed to zero by the mode kernels run in.
#include "simd/simd.h"

namespace fastnn::FASTNN_TARGET { namespace {

template <class T>
struct MathConstants;
template <>
struct MathConstants<float> {
  static constexpr float log2e = 1.44269504f;
  static constexpr float ln2_high = 0.693359375f, ln2_low = -2.12194440e-4f;  // n*ln2_high is exact for |n| < 2^15
  static constexpr float round_magic = 12582912.0f;                           // 1.5 * 2^23
  static constexpr float exp_low = -87.33654f, exp_high = 88.72283f;          // exp() is 0 below, inf above
  static constexpr int exponent_shift = 23, exponent_bias = 127;
  static constexpr float splitter = 4097.0f;  // 2^12 + 1
  // (expm1(r) - r) / r^2 on |r| <= ln2/2, relative to expm1: 4.9e-10
  static constexpr float expm1[] = {0.5000000013f,   0.1666666668f,   0.04166646501f,
                                    0.008333310934f, 0.001393364103f, 0.0001989098087f};
  // (atanh(s)/s - 1) / s^2 in s^2 on [0, 1/9], relative to atanh(s)/s: 4.0e-10
  static constexpr float atanh[] = {0.3333333366f, 0.1999985317f, 0.14296179f, 0.108532879f, 0.1161216461f};
  // Q(a) exp(a^2/2)/t in u = 1 - 2t, t = 3/(a + 3), on [-1, 1]; Q is the upper tail of the normal distribution. Relative: 9.7e-9
  static constexpr float tail_center = 3.0f, tail_end = 13.2f;  // beyond, Q is below the normal numbers
  static constexpr float tail[] = {0.243027898526f,    -0.169777327381f,  0.0766724421795f,   -0.0157543364285f,
                                   -0.00348606490007f, 0.00232415381747f, 0.000335639874896f, -0.000348460209419f,
                                   -7.13015851878e-5f, 5.14931361198e-5f, 1.17673999412e-5f,  -5.14303126176e-6f};
};
template <>
struct MathConstants<double> {
  static constexpr double log2e = 1.4426950408889634074;
  static constexpr double ln2_high = 6.93147180369123816490e-01, ln2_low = 1.90821492927058770002e-10;  // 32 + 53 bits of ln 2
  static constexpr double round_magic = 6755399441055744.0;                                             // 1.5 * 2^52
  static constexpr double exp_low = -708.396418532264, exp_high = 709.782712893384;
  static constexpr int exponent_shift = 52, exponent_bias = 1023;
  static constexpr double splitter = 134217729.0;  // 2^27 + 1
  // 4.8e-19
  static constexpr double expm1[] = {0.5,
                                     0.1666666666666667099,
                                     0.04166666666666666975,
                                     0.008333333333326140884,
                                     0.001388888888888375242,
                                     0.0001984126987480049198,
                                     0.00002480158732553336382,
                                     2.755725542574643428e-6,
                                     2.755727366134863622e-7,
                                     2.510520637395701112e-8,
                                     2.09146793765839351e-9};
  // 5.0e-18
  static constexpr double atanh[] = {0.33333333333333329281,  0.20000000000007291337,  0.14285714283554378581,
                                     0.11111111358713931495,  0.090908947180664290846, 0.076927850324793115517,
                                     0.066570721048274680752, 0.060005364047953562676, 0.044003692430723369411,
                                     0.080820228059717661105};
  // as for float, with t = 5/(a + 5): 4.4e-17
  static constexpr double tail_center = 5.0, tail_end = 37.6;
  static constexpr double tail[] = {
      0.15383860995001258873,     -0.13307650057801137143,   0.099061123193996127873,     -0.062706631334257169731,
      0.033004073234037936401,    -0.013823727741391341375,  0.004159013360663893864,     -0.00059867535206952696112,
      -0.00015957388568575725826, 0.00010897979548908732533, -0.000011875117032688183746, -9.9524729350153614311e-6,
      3.3361687039280987029e-6,   7.9589143615840995553e-7,  -5.5377232667458816536e-7,   -6.6741207016719539464e-8,
      8.6691220389515074629e-8,   7.7506618448716795957e-9,  -1.3480322359544062655e-8,   -1.4136091307961812054e-9,
      1.8537318074054236451e-9,   2.6442059255633881659e-10, -1.5685592727271840587e-10,  -2.8383843787161205294e-11};
};

// c[0] + c[1] x + ... by Horner's rule.
template <class T, int N>
FASTNN_INLINE Vec<T> polynomial(Vec<T> x, const T (&c)[N]) {
  Vec<T> y = set1(c[N - 1]);
  _Pragma("GCC unroll 32") for (int i = N - 2; i >= 0; --i) y = fma(y, x, set1(c[i]));
  return y;
}

// 2^n for an integral n with a normal result: n + bias lands in the low bits of the sum, then moves to the exponent.
template <class T>
FASTNN_INLINE Vec<T> power_of_two(Vec<T> n) {
  using C = MathConstants<T>;
  Vec<T> v;
  FASTNN_EACH_REG (i) v.r[i] = (Reg<T>)((RegMask<T>)(n.r[i] + (C::round_magic + C::exponent_bias)) << C::exponent_shift);
  return v;
}

// x = n ln2 + r, |r| <= ln2/2; returns expm1(r).
template <class T>
FASTNN_INLINE Vec<T> reduced_expm1(Vec<T> x, Vec<T>& n) {
  using C = MathConstants<T>;
  n = fma(x, set1(C::log2e), set1(C::round_magic)) - set1(C::round_magic);
  const Vec<T> r = fma(n, set1(-C::ln2_low), fma(n, set1(-C::ln2_high), x));
  return fma(r * r, polynomial(r, C::expm1), r);
}

// exp(x) for x in [exp_low, exp_high]; 0 below, infinity above, NaN for NaN.
template <class T>
FASTNN_INLINE Vec<T> exp(Vec<T> x) {
  using C = MathConstants<T>;
  Vec<T> n;
  const Vec<T> low = set1(C::exp_low), high = set1(C::exp_high);
  const Vec<T> p = reduced_expm1(min(high, max(low, x)), n);
  // 2^n in two factors: n reaches 128 (1024), one more than the exponent holds.
  const Vec<T> y = (p + set1(T(1))) * power_of_two(n - set1(T(1))) * set1(T(2));
  return select(x < low, set1(T(0)), select(high < x, set1(T(__builtin_inf())), y));
}

// exp(x) for exp_low <= x < 88 (709), without exp's care for the rest.
template <class T>
FASTNN_INLINE Vec<T> exp_in_range(Vec<T> x) {
  Vec<T> n;
  const Vec<T> p = reduced_expm1(x, n);
  return (p + set1(T(1))) * power_of_two(n);
}

// expm1(x) for 0 <= x < exp_high.
template <class T>
FASTNN_INLINE Vec<T> expm1_positive(Vec<T> x) {
  Vec<T> n;
  const Vec<T> p = reduced_expm1(x, n);
  const Vec<T> scale = power_of_two(n);
  return fma(p, scale, scale - set1(T(1)));
}

// tanh(x) = t/(t + 2), t = expm1(2|x|), with the sign of x. Beyond |x| = 20 it is 1 in double.
template <class T>
FASTNN_INLINE Vec<T> tanh(Vec<T> x) {
  const Vec<T> t = expm1_positive(min(set1(T(40)), abs(x) + abs(x)));
  const Vec<T> y = t / (t + set1(T(2)));
  return select(x < set1(T(0)), set1(T(0)) - y, select(x >= set1(T(0)), y, x));
}

// 1/(1 + exp(-x)); 0 where exp(-x) overflows.
template <class T>
FASTNN_INLINE Vec<T> logistic(Vec<T> x) {
  const Vec<T> limit = set1(-MathConstants<T>::exp_low), inside = min(limit, max(set1(T(0)) - limit, x));
  const Vec<T> y = set1(T(1)) / (set1(T(1)) + exp_in_range(set1(T(0)) - inside));
  return select(x < set1(T(0)) - limit, set1(T(0)), y);
}

// log(1 + u) for 0 <= u <= 1, as 2 atanh(s), s = u/(2 + u).
template <class T>
FASTNN_INLINE Vec<T> log1p_unit(Vec<T> u) {
  const Vec<T> s = u / (u + set1(T(2))), w = s * s, twice = s + s;
  return fma(twice * w, polynomial(w, MathConstants<T>::atanh), twice);
}

// a^2 - square, exactly, where square is a^2 rounded.
template <class T>
FASTNN_INLINE Vec<T> square_rest(Vec<T> a, Vec<T> square) {
  if constexpr (kFused) return fma(a, a, set1(T(0)) - square);
  // Dekker 1971: a = high + low, the products of which are exact.
  const Vec<T> c = a * set1(MathConstants<T>::splitter), high = c - (c - a), low = a - high;
  return ((high * high - square) + (high + high) * low) + low * low;
}

// The normal distribution at x: its density exp(-x^2/2)/sqrt(2 pi) and its cumulative 0.5 erfc(-x/sqrt 2), accurate in both
// tails.
template <class T>
FASTNN_INLINE Vec<T> normal_cdf(Vec<T> x, Vec<T>& density) {
  using C = MathConstants<T>;
  const Vec<T> one = set1(T(1)), a = min(set1(C::tail_end), abs(x));
  const Vec<T> square = a * a, rest = square_rest(a, square);
  const Vec<T> inside = exp_in_range(set1(T(-0.5)) * square) * fma(set1(T(-0.5)), rest, one);
  const Vec<T> e = select(a < set1(C::tail_end), inside, set1(T(0)));
  const Vec<T> t = set1(C::tail_center) / (a + set1(C::tail_center));
  const Vec<T> tail = e * t * polynomial(fma(set1(T(-2)), t, one), C::tail);
  density = e * set1(T(0.398942280401432677940));
  return select(x < set1(T(0)), tail, one - tail);
}

}}  // namespace fastnn::FASTNN_TARGET
