// The six activations and their derivatives, element by element.
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
  fill<Activation::gelu, Gelu>(table);
  fill<Activation::silu, Silu>(table);
}
template void fill_activations(Kernels<float>&);
template void fill_activations(Kernels<double>&);

}  // namespace fastnn::FASTNN_TARGET
