#pragma once
// A call that trains: what it is given, and its way from what is read to what is written.
#include <algorithm>
#include <exception>
#include <limits>
#include <optional>
#include <vector>

#include "bindings/network/run.h"
#include "bindings/network/write.h"

namespace fastnn::bindings {

// What a call that may come back to its object is told there.
struct Busy {
  explicit Busy(bool& flag) : flag(flag) { flag = true; }
  ~Busy() { flag = false; }
  Busy(const Busy&) = delete;
  Busy& operator=(const Busy&) = delete;
  bool& flag;
};

// Holds the locks of those layers that others may use, to write or only to read.
template <bool writes>
class HoldLayers {
 public:
  explicit HoldLayers(const std::vector<LayerObject>& layers) {
    try {
      for (const LayerObject& layer : layers)
        if (layer.lock && layer.lock->counts()) {
          held_.reserve(layers.size());
          writes ? layer.lock->enter() : layer.lock->enter_reading();
          held_.push_back(layer.lock);
        }
    } catch (...) {
      release();
      throw;
    }
  }
  ~HoldLayers() { release(); }
  HoldLayers(const HoldLayers&) = delete;
  HoldLayers& operator=(const HoldLayers&) = delete;

 private:
  void release() noexcept {
    for (InUse* lock : held_) writes ? lock->leave() : lock->leave_reading();
  }
  std::vector<InUse*> held_;
};
using WriteLayers = HoldLayers<true>;
using ReadLayers = HoldLayers<false>;

template <class T>
bool normalizes(const std::vector<Layer<T>>& layers) {
  return std::any_of(layers.begin(), layers.end(), [](const Layer<T>& l) { return l.kind == LayerKind::batchnorm; });
}

// The gradient of the outputs as Python has made it: of their shape and type, contiguous.
template <class T>
py::object output_gradient(py::handle dout, Index rows, Index outputs);
[[noreturn]] void refuse_replaced();

// The exception that is being handled, as Python's.
py::object current_exception();

struct CompiledNetwork::Request {
  py::handle trainer, x, t, weight, order = py::none();
  Index step = 0, rows = 0;  // rows 0: all of x is one batch
  double scale = 1;
  py::handle rates = py::none();
  double seconds = std::numeric_limits<double>::infinity();
  py::handle losses = py::none();
  Index cut = 0;                   // into how many pieces a step's rows are, along whose tree gradients are added up; 0: none
  py::handle pieces = py::none();  // what pieces() takes: of these rows the gradients are wanted and no step

  // What train() or step() takes: the handles are the tuple's.
  static Request of(const py::tuple& arguments);
};

// A call that trains, from what is read to what is written. It holds the locks as long as it lives.
class CompiledNetwork::Job {
 public:
  // Reads. Throws Unsupported where Python has to do it: also within a call, from which a schedule may come back here, and in a
  // child forked in the middle of one.
  Job(CompiledNetwork& net, const Request& request);
  Job(const Job&) = delete;
  Job& operator=(const Job&) = delete;

  bool runs_python() const noexcept { return net_.call_.own_loss; }
  // For as many threads as pay off, or for this one alone. Returns what one takes, in nanoseconds. Throws std::bad_alloc.
  double prepare(bool alone);
  void run();  // prepared; with the GIL only where it runs Python
  py::object finish();
  py::object pass_pieces();  // in the place of these three

 private:
  template <class T>
  void read(Training<T>& typed);
  template <class T>
  double prepare(Training<T>& typed, bool alone);
  template <class T>
  void run(Training<T>& typed);
  template <class T>
  py::object finish(Training<T>& typed);
  template <class T>
  py::object pass_pieces(Training<T>& typed);

  CompiledNetwork& net_;
  const Request& request_;
  const Hold hold_;
  const WriteLayers hold_layers_;
  std::optional<Busy> busy_;
  std::optional<Calling> calling_;
  std::optional<Hold> hold_optimizer_, hold_average_;
  network::Rule rule_{};
  network::Data data_{};
  network::Steps steps_{};
  network::Done done_{0, 0, true, 0};
  std::exception_ptr failed_;
  Index used_ = 0;  // rows that an epoch uses
  bool wide_ = false, lost_ = false;
  double one_ = 0;
};

}  // namespace fastnn::bindings
