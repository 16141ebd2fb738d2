#pragma once
// Ops on contiguous arrays, element by element: activations, dropout, scaling, the norm of many arrays.
#include <vector>

#include "kernels/table.h"

namespace fastnn::ops {

template <class T>
void activation_forward(Activation kind, const T* x, T* y, Index n, T alpha);
template <class T>
void activation_backward(Activation kind, const T* x, const T* y, const T* dy, T* dx, Index n, T alpha);

// y = keep ? x*scale : 0, where element i is kept if its word of the stream is not below drop_threshold(ratio), 0 <= ratio < 1;
// keep holds (n + 7)/8 bytes.
template <class T>
void dropout_forward(const RandomStream& stream, double ratio, T scale, const T* x, T* y, uint8_t* keep, Index n);
template <class T>
void dropout_backward(const uint8_t* keep, T scale, const T* dy, T* dx, Index n);

template <class T>
void scale(const T* x, T factor, T* y, Index n);

// The sum of squares over arrays of float or double (null where an entry has the other type), in an order that only their sizes
// set.
struct Run {
  const float* f32;
  const double* f64;
  Index size;
};
double sum_of_squares(const std::vector<Run>& runs);

}  // namespace fastnn::ops
