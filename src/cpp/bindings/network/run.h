#pragma once
// The second room: what was read runs, without the GIL where it takes long.
#include <memory>
#include <mutex>

#include "bindings/network/read.h"

namespace fastnn::bindings {

// A network of native layers. Predictions of several threads run side by side, each on a plan of its own.
class CompiledNetwork {
 public:
  // An embedding comes first. Throws Unsupported.
  CompiledNetwork(InUse& lock, const py::tuple& layers);
  ~CompiledNetwork() { part(); }
  CompiledNetwork(const CompiledNetwork&) = delete;
  CompiledNetwork& operator=(const CompiledNetwork&) = delete;

  // Trains on rows of a data set; the stub says what it takes and returns. None: Python has to do it.
  py::object train(const py::args& arguments);
  // One step of each of several networks side by side, each a tuple of its network and the tuple of what step() takes. Returns
  // the result of each, or the exception that it has raised.
  static py::list step_together(const py::list& calls);
  // The gradients of pieces of a batch, added up as far as they can be; the stub says how. None: Python has to do it.
  py::object pieces(py::handle trainer, py::handle x, py::handle t, py::handle weight, double scale, py::handle pieces);
  // One step on all rows, whose gradients are added up along the tree of so many pieces unless `cut` is 0.
  py::object step(py::handle trainer, py::handle x, py::handle t, py::handle weight, Index cut);
  // A pass at a time; NotImplemented where Python has to do it. Forward in training keeps what backward needs, known by `pass`,
  // an object that each layer remembers until it is passed otherwise.
  py::object forward(py::handle x, py::handle pass);
  // Given the gradient of the outputs; returns that of the input, if it is wanted, and fills those of the parameters, if they
  // are.
  py::object backward(py::handle dout, bool parameters, bool input);
  // The outputs for rows x times scale, as without training, or None.
  py::object infer(py::handle x, double scale);

  // For the garbage collector: layers may lead back to their network.
  int traverse(visitproc visit, void* arg) const;
  void clear() {
    part();
    layers_.clear();
    pass_ = pass_x_ = py::object();
  }

  struct Request;
  class Job;

 private:
  template <class T>
  struct Training {
    network::Runner<T> runner;
    network::Halves<T> halves;  // of steps whose loss is Python's
    std::vector<Layer<T>> layers;
  };
  // What a forward by itself has left.
  template <class T>
  struct Kept {
    network::Halves<T> halves;
    std::vector<Layer<T>> forward, backward;  // the layers as they were then, and are now
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

  py::object train(const Request& request);
  template <class T>
  void run_by_python(Training<T>& typed, const Request& request, const network::Data& data, const network::Steps& steps,
                     const network::Rule& rule, network::Done& done);
  template <class T>
  py::object forward_as(Kept<T>& kept, py::handle x, py::handle pass);
  template <class T>
  py::object backward_as(Kept<T>& kept, py::handle dout, bool parameters, bool input);
  template <class T>
  py::object infer_as(Call& call, Inference<T>& typed, py::handle x, double scale);

  void part() noexcept;  // from the layers' locks
  void read_rates(py::handle rates, network::Steps& steps) const;
  Index affine_bytes() const;
  bool takes_indices() const { return layers_.front().kind == LayerKind::embedding; }

  InUse& lock_;
  const NativeClass& type_;
  std::vector<LayerObject> layers_;
  std::size_t joined_ = 0;  // of them, whose locks know of this network
  Training<float> f32_;
  Training<double> f64_;
  bool training_ = false, passing_ = false;
  Call call_, pass_call_;
  Kept<float> kept_f32_;
  Kept<double> kept_f64_;
  py::object pass_, pass_x_;       // the last forward's, and the rows that it went through
  std::vector<Index> pass_shape_;  // of x
  bool pass_wide_ = false;         // whether it was in float64
  Order order_;
  std::mutex lending_;
  std::vector<std::unique_ptr<Reader>> readers_;  // that nobody works with
};

}  // namespace fastnn::bindings
