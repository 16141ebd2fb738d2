#pragma once
// Each kernel file fills its own part of the table; table.cpp puts the parts together.
#include "kernels/table.h"

namespace fastnn::FASTNN_TARGET {

template <class T>
void fill_gemm(Kernels<T>&);
template <class T>
void fill_convert(Kernels<T>&);
template <class T>
void fill_dots(Kernels<T>&);
template <class T>
void fill_few_rows(Kernels<T>&);
template <class T>
void fill_activations(Kernels<T>&);
template <class T>
void fill_batchnorm(Kernels<T>&);
template <class T>
void fill_dropout(Kernels<T>&);
template <class T>
void fill_losses(Kernels<T>&);
template <class T>
void fill_optimizers(Kernels<T>&);
template <class T>
void fill_probes(Kernels<T>&);
template <class T>
void fill_rownorm(Kernels<T>&);
template <class T>
void fill_rows(Kernels<T>&);
template <class T>
void fill_vectors(Kernels<T>&);

}  // namespace fastnn::FASTNN_TARGET
