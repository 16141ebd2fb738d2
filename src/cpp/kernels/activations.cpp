// The activations and their derivatives, element by element.
#define FASTNN_LONG_VECTORS  // sigmoid, tanh and SiLU take 0.87 to 0.92 times as long, GELU's derivative 0.93
#include "kernels/parts.h"
#include "simd/math.h"

namespace fastnn::FASTNN_TARGET {
namespace {

// y = max(x, 0); NaN stays NaN. dx = dy where y > 0.
template <class T>
struct Relu {
  FASTNN_INLINE Vec<T> forward(Vec<T> x, Vec<T>) { return max(set1(T(0)), x); }
  FASTNN_INLINE Vec<T> backward(Vec<T> y, Vec<T> dy, Vec<T>) { return select(set1(T(0)) < y, dy, set1(T(0))); }
};
// y = x > 0 ? x : alpha*x. With alpha >= 0 the sign of y is that of x: dx = y > 0 ? dy : alpha*dy.
template <class T>
struct LeakyRelu {
  FASTNN_INLINE Vec<T> forward(Vec<T> x, Vec<T> alpha) { return select(set1(T(0)) < x, x, alpha * x); }
  FASTNN_INLINE Vec<T> backward(Vec<T> y, Vec<T> dy, Vec<T> alpha) { return select(set1(T(0)) < y, dy, alpha * dy); }
};
// y = 1/(1 + exp(-x)), dx = dy*y*(1 - y)
template <class T>
struct Sigmoid {
  FASTNN_INLINE Vec<T> forward(Vec<T> x, Vec<T>) { return logistic(x); }
  FASTNN_INLINE Vec<T> backward(Vec<T> y, Vec<T> dy, Vec<T>) { return dy * (y * (set1(T(1)) - y)); }
};
// dx = dy*(1 - y^2)
template <class T>
struct Tanh {
  FASTNN_INLINE Vec<T> forward(Vec<T> x, Vec<T>) { return tanh(x); }
  FASTNN_INLINE Vec<T> backward(Vec<T> y, Vec<T> dy, Vec<T>) { return dy * ((set1(T(1)) - y) * (set1(T(1)) + y)); }
};
// y = x*Phi(x), dx = dy*(Phi(x) + x*phi(x))
template <class T>
struct Gelu {
  // max(x, 0) - |x|*(1 - Phi(|x|)), |x| bounded above only, so that -infinity gives NaN as x*Phi(x) does
  FASTNN_INLINE Vec<T> forward(Vec<T> x, Vec<T>) {
    Vec<T> density;
    const Vec<T> a = min(set1(MathConstants<T>::tail_end), abs(x));
    return fma(min(set1(T(0)) - a, x), normal_tail(a, density), max(set1(T(0)), x));
  }
  FASTNN_INLINE Vec<T> backward(Vec<T> x, Vec<T> dy, Vec<T>) {
    Vec<T> density;
    const Vec<T> a = min(set1(MathConstants<T>::tail_end), abs(x)), tail = normal_tail(a, density);
    return dy * fma(x, density, select(x < set1(T(0)), tail, set1(T(1)) - tail));
  }
};
// y = x*s, s = 1/(1 + exp(-x)), dx = dy*s*(1 + x*(1 - s))
template <class T>
struct Silu {
  FASTNN_INLINE Vec<T> forward(Vec<T> x, Vec<T>) { return x * logistic(x); }
  FASTNN_INLINE Vec<T> backward(Vec<T> x, Vec<T> dy, Vec<T>) {
    const Vec<T> s = logistic(x);
    return dy * (s * fma(x, set1(T(1)) - s, set1(T(1))));
  }
};

// y = l*x for x > 0, else l*a*expm1(x), so that layers keep mean 0 and variance 1 (Klambauer et al. 2017); dx = dy*l, or
// dy*(y + l*a)
template <class T>
struct Selu {
  static constexpr T scale = T(1.0507009873554804934), below = T(1.7580993408473768599);  // l and l*a, a = 1.6732632423543772848
  FASTNN_INLINE Vec<T> forward(Vec<T> x, Vec<T>) {
    const Vec<T> low = max(set1(T(-40)), min(set1(T(0)), x));
    return select(set1(T(0)) < x, set1(scale) * x, set1(below) * expm1(low));
  }
  FASTNN_INLINE Vec<T> backward(Vec<T> y, Vec<T> dy, Vec<T>) { return dy * select(set1(T(0)) < y, set1(scale), y + set1(below)); }
};
// The approximation y = x*s, s = 1/(1 + exp(-v)), v = 2*sqrt(2/pi)*(x + 0.044715*x^3); dx = dy*(s + x*s*(1 - s)*v')
template <class T>
struct GeluTanh {
  static constexpr T c1 = T(1.5957691216057307118), c3 = T(0.071354816272600250447);
  // Beyond, s is 0 or 1 and its slope nothing.
  FASTNN_INLINE Vec<T> bounded(Vec<T> x) { return min(set1(T(30)), max(set1(T(-30)), x)); }
  FASTNN_INLINE Vec<T> share(Vec<T> x) { return logistic(x * fma(x * x, set1(c3), set1(c1))); }
  FASTNN_INLINE Vec<T> forward(Vec<T> x, Vec<T>) { return x * share(bounded(x)); }
  FASTNN_INLINE Vec<T> backward(Vec<T> x, Vec<T> dy, Vec<T>) {
    const Vec<T> b = bounded(x), s = share(b), slope = fma(b * b, set1(3 * c3), set1(c1));
    return dy * fma(b * slope, s * (set1(T(1)) - s), s);
  }
};
// y = log(1 + exp(x)), dx = dy/(1 + exp(-x))
template <class T>
struct Softplus {
  FASTNN_INLINE Vec<T> forward(Vec<T> x, Vec<T>) { return max(set1(T(0)), x) + log1p_unit(exp(set1(T(0)) - abs(x))); }
  FASTNN_INLINE Vec<T> backward(Vec<T> x, Vec<T> dy, Vec<T>) { return dy * logistic(x); }
};
// y = x*tanh(log(1 + e)) = x*n/(n + 2), e = exp(x), n = e*(e + 2); dx = dy*(n/(n + 2) + 4*x*e*(1 + e)/(n + 2)^2)
template <class T>
struct Mish {
  // Above, n/(n + 2) is 1; below, all is 0.
  FASTNN_INLINE Vec<T> bounded(Vec<T> x) { return min(set1(T(20)), max(set1(T(-1000)), x)); }
  FASTNN_INLINE Vec<T> forward(Vec<T> x, Vec<T>) {
    const Vec<T> e = exp(bounded(x)), n = e * (e + set1(T(2)));
    return x * (n / (n + set1(T(2))));
  }
  FASTNN_INLINE Vec<T> backward(Vec<T> x, Vec<T> dy, Vec<T>) {
    const Vec<T> b = bounded(x), e = exp(b), n = e * (e + set1(T(2))), r = set1(T(1)) / (n + set1(T(2)));
    return dy * (r * fma(set1(T(4)) * b, e * (set1(T(1)) + e) * r, n));
  }
};

template <class T, class F>
void forward(const T* x, T* y, Index n, T alpha, bool around) {
  const Vec<T> a = set1(alpha);
  each_line<T>(y, n, [&](Index i, auto lanes) FASTNN_LAMBDA { store(y + i, F::forward(load(x + i, lanes), a), lanes, around); });
  stream_end();
}
template <class T, class F, bool FromOutput>
void backward(const T* x, const T* y, const T* dy, T* dx, Index n, T alpha, bool around) {
  const T* saved = FromOutput ? y : x;
  const Vec<T> a = set1(alpha);
  each_line<T>(dx, n, [&](Index i, auto lanes) FASTNN_LAMBDA {
    store(dx + i, F::backward(load(saved + i, lanes), load(dy + i, lanes), a), lanes, around);
  });
  stream_end();
}

template <Activation kind, template <class> class F, class T>
void fill(Kernels<T>& table) {
  table.activations[static_cast<int>(kind)] = {forward<T, F<T>>, backward<T, F<T>, activation_uses_output(kind)>};
}

}  // namespace

template <class T>
void fill_activations(Kernels<T>& table) {
  fill<Activation::relu, Relu>(table);
  fill<Activation::leaky_relu, LeakyRelu>(table);
  fill<Activation::sigmoid, Sigmoid>(table);
  fill<Activation::tanh, Tanh>(table);
  fill<Activation::selu, Selu>(table);
  fill<Activation::gelu, Gelu>(table);
  fill<Activation::gelu_tanh, GeluTanh>(table);
  fill<Activation::silu, Silu>(table);
  fill<Activation::softplus, Softplus>(table);
  fill<Activation::mish, Mish>(table);
}
template void fill_activations(Kernels<float>&);
template void fill_activations(Kernels<double>&);

}  // namespace fastnn::FASTNN_TARGET
