#pragma once
// The kernels' part of the C interface's table.
#include <fastnn.h>

namespace fastnn::bindings::c_api {

void fill_kernels(fastnn_api& table) noexcept;

}  // namespace fastnn::bindings::c_api
