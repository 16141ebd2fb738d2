#pragma once
// Networks that compiled code works with: the handles of the C interface.
#include <fastnn.h>

namespace fastnn::bindings::c_api {

void fill_networks(fastnn_api& table) noexcept;

}  // namespace fastnn::bindings::c_api
