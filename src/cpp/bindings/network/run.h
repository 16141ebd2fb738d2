#pragma once
// The second room: what was read runs, without the GIL where it takes long.
#include <memory>

#include "bindings/in_use.h"
#include "bindings/network/read.h"

namespace fastnn::bindings {

// A network of native layers. Predictions of several threads run side by side, each on a plan of its own.
class CompiledNetwork {
 public:
  // An embedding comes first. Throws Unsupported.
  CompiledNetwork(InUse& lock, const py::tuple& layers);

  // Trains on rows of a data set; the stub says what it takes and returns. None: Python has to do it.
  py::object train(py::handle trainer, py::handle x, py::handle t, py::handle weight, py::handle order, Index step, Index rows,
                   double scale, py::handle rates, double seconds, py::handle losses);
  // One step on all rows.
  py::object step(py::handle trainer, py::handle x, py::handle t, py::handle weight);
  // The outputs for rows x times scale, as without training, or None.
  py::object infer(py::handle x, double scale);

  // For the garbage collector: layers may lead back to their network.
  int traverse(visitproc visit, void* arg) const;
  void clear() { layers_.clear(); }

 private:
  template <class T>
  struct Training {
    network::Runner<T> runner;
    std::vector<Layer<T>> layers;
  };
  template <class T>
  struct Inference {
    network::Predictor<T> predictor;
    std::vector<Layer<T>> layers;
  };
  // What a prediction works with, and nobody else meanwhile.
  struct Reader {
    Call call;
    Inference<float> f32;
    Inference<double> f64;
  };
  class Lent;

  struct Request;
  template <class T>
  py::object train_as(Training<T>& typed, const Request& request);
  py::object train(const Request& request);
  template <class T>
  py::object infer_as(Call& call, Inference<T>& typed, py::handle x, double scale);

  Index affine_bytes() const;
  bool takes_indices() const { return layers_.front().kind == LayerKind::embedding; }

  InUse& lock_;
  const NativeClass& type_;
  std::vector<LayerObject> layers_;
  Training<float> f32_;
  Training<double> f64_;
  bool training_ = false;
  Call call_;
  Order order_;
  std::vector<std::unique_ptr<Reader>> readers_;  // that nobody works with
};

}  // namespace fastnn::bindings
