#pragma once
// The third room: what a step in Python would have left in the objects.
#include "bindings/network/read.h"

namespace fastnn::bindings {

// After `updates` steps of `rows` rows of x, by this rule.
template <class T>
void write_back(const std::vector<LayerObject>& objects, const Call& call, const std::vector<Layer<T>>& layers,
                const network::Plan<T>& plan, py::handle x, const network::Rule& rule, Index updates, Index rows);

}  // namespace fastnn::bindings
