// Softmax and the terms of the losses, a row or a run of elements at a time.
#include "kernels/parts.h"
#include "simd/math.h"

namespace fastnn::FASTNN_TARGET {
namespace {

// y = exp(x - max)/sum, and max and log(sum) of each row, from which log softmax = x - max - log(sum).
template <class T>
void softmax(const T* x, Index x_row, Index rows, Index cols, T* y, T* row_max, T* log_sum) {
  for (Index i = 0; i < rows; ++i, x += x_row, y += cols) {
    const T lowest = -T(__builtin_inf());
    Vec<T> top = set1(lowest), sum = set1(T(0));
    each_vector<T>(cols, [&](Index j, auto lanes) FASTNN_LAMBDA { top = max(top, only(load(x + j, lanes), lanes, lowest)); });
    const T most = reduce_max(top);
    const Vec<T> shift = set1(most);
    each_vector<T>(cols, [&](Index j, auto lanes) FASTNN_LAMBDA {
      const Vec<T> e = exp(load(x + j, lanes) - shift);
      sum = sum + only(e, lanes, T(0));
      store(y + j, e, lanes);
    });
    const T total = reduce_sum(sum);
    const Vec<T> inverse = set1(T(1) / total);
    each_vector<T>(cols, [&](Index j, auto lanes) FASTNN_LAMBDA { store(y + j, load(y + j, lanes) * inverse, lanes); });
    row_max[i] = most;
    log_sum[i] = static_cast<T>(__builtin_log(static_cast<double>(total)));
  }
}

// -sum t*log softmax(x); a label of zero adds nothing, even where x is -infinity.
template <class T>
double soft_label_loss(const T* x, const T* t, Index n, T row_max, T log_sum) {
  const Vec<T> shift = set1(row_max), log_total = set1(log_sum), zero = set1(T(0));
  return sum_pieces<T>(n, [&](Index i, auto lanes) FASTNN_LAMBDA {
    const Vec<T> label = load(t + i, lanes);
    return select(zero < label, label * ((shift - load(x + i, lanes)) + log_total), zero);
  });
}

// With e = exp(-|x|): y = 1/(1 + e) for x >= 0, e/(1 + e) below; the loss is max(x, 0) - x t + log1p(e).
template <class T>
double sigmoid_loss(const T* x, const T* t, Index n, T* y) {
  const Vec<T> zero = set1(T(0)), one = set1(T(1)), lowest = set1(MathConstants<T>::exp_low);
  return sum_pieces<T>(n, [&](Index i, auto lanes) FASTNN_LAMBDA {
    const Vec<T> v = load(x + i, lanes), e = exp_in_range(max(lowest, zero - abs(v)));
    store(y + i, select(v < zero, e, one) / (one + e), lanes);
    return fma(zero - v, load(t + i, lanes), max(zero, v)) + log1p_unit(e);
  });
}

template <class T>
double squared_error(const T* x, const T* t, Index n) {
  return sum_pieces<T>(n, [&](Index i, auto lanes) FASTNN_LAMBDA {
    const Vec<T> d = load(x + i, lanes) - load(t + i, lanes);
    return d * d;
  });
}

template <class T>
void scaled_difference(const T* a, const T* b, T scale, Index n, T* y) {
  const Vec<T> s = set1(scale);
  each_vector<T>(n,
                 [&](Index i, auto lanes) FASTNN_LAMBDA { store(y + i, (load(a + i, lanes) - load(b + i, lanes)) * s, lanes); });
}

}  // namespace

template <class T>
void fill_losses(Kernels<T>& table) {
  table.softmax = softmax<T>;
  table.soft_label_loss = soft_label_loss<T>;
  table.sigmoid_loss = sigmoid_loss<T>;
  table.squared_error = squared_error<T>;
  table.scaled_difference = scaled_difference<T>;
}
template void fill_losses(Kernels<float>&);
template void fill_losses(Kernels<double>&);

}  // namespace fastnn::FASTNN_TARGET
