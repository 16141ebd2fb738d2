#pragma once
// The third room: what a step in Python would have left in the objects.
#include "bindings/network/read.h"

namespace fastnn::bindings {

// What a layer of dropout has kept of `rows` rows of x.
template <class T>
void write_kept(const Call& call, const std::vector<Layer<T>>& layers, const network::Plan<T>& plan, std::size_t layer,
                py::handle x, Index rows);
// The gradient of the table that the network begins with, if it does.
template <class T>
void write_embedding(const std::vector<LayerObject>& objects, const Call& call, const std::vector<Layer<T>>& layers,
                     const network::Plan<T>& plan);
// The counters of a trainer and its optimizer after `updates` steps by this rule.
void write_counters(const Call& call, const network::Rule& rule, Index updates);
// All of it after so many steps on rows of x.
template <class T>
void write_back(const std::vector<LayerObject>& objects, const Call& call, const std::vector<Layer<T>>& layers,
                const network::Plan<T>& plan, py::handle x, const network::Rule& rule, Index updates);

}  // namespace fastnn::bindings
