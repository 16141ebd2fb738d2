#pragma once
// The first room of a network's door: what the Python objects say, read anew for each call. Only exact native classes that are as
// they were at import get through, with what stands in their own dicts, and arrays by what they are themselves; for the rest
// Unsupported is thrown, and Python does it.
#include "bindings/in_use.h"
#include "bindings/labels.h"
#include "bindings/network/classes.h"
#include "network/run.h"

namespace fastnn::bindings {

using network::Layer;
using network::LayerKind;

// A layer of a network, and the keys of what belongs to it. A residual block is there twice, as its beginning and as its end.
struct LayerObject {
  // `prefix`: what the names of its parameters begin with; `place`: among all layers.
  LayerObject(py::handle layer, const std::string& prefix, std::size_t place);

  py::object object;
  InUse* lock;  // the layer's, kept alive by `locked`; or null
  py::object locked;
  const NativeClass* type;
  LayerKind kind;
  py::str names[2];    // of params and grads: weight and bias, gamma and beta, or the table alone
  py::str entries[2];  // of the optimizer's state
  int parameters;
  uint32_t stream;   // of its masks
  py::object block;  // of a residual block: its layers
};

// The layers of a network, with those within residual blocks between their two ends. Throws Unsupported.
std::vector<LayerObject> layers_of(const py::tuple& layers);

// An array that goes into a dict once the call has succeeded.
struct NewEntry {
  py::dict dict;
  py::object key, array;
};

// What the objects of a call have been found to be. Owns a reference to every array, since the objects may change once the GIL is
// released, or while a schedule runs.
struct Call {
  struct Found {
    py::object attributes, grads, parameters[2];
    double ratio = 0;  // of dropout
  };
  // Whether it trains, so that parameters, gradients and state are written to; whether gradients are kept; whether it is a
  // forward in training by itself, for which layers of dropout have counters of their own.
  bool train = false, keep = false, alone = false;
  bool own_loss = false;  // the trainer's is none of ours: Python computes it
  bool deep = false;      // a row of the data has axes of its own, or gets one from an embedding
  std::vector<Found> layers;
  py::object trainer, optimizer, loss;  // their attributes
  InUse* lock = nullptr;                // the last optimizer's, kept alive by `locked`
  py::object locked;
  py::object optimizer_object, factors;  // the factors of parameters, a dict; or null
  py::object matrices;                   // the names of those that Muon updates as a whole, a frozenset; or null
  int iterations = 0;                    // by so many
  std::vector<ops::Factors> own_factors;
  std::vector<py::dict> averages;  // the attributes of the layers of the trainer's average, if it has one
  py::object averaged;             // its lock, as `lock` is the optimizer's
  InUse* average_lock = nullptr;
  int state_count = 0;
  py::object states[2];
  uint64_t seed = 0;   // the trainer's
  Index features = 0;  // of a row of the data
  Extent x{};          // where the data lie, if a step reads them there
  std::vector<py::object> owned;
  std::vector<NewEntry> entries;
  std::vector<Extent> extents;   // of what a step writes to
  std::vector<Extent> distinct;  // extents that were found not to meet

  void clear();  // but for room
};

// Forgets the objects of a call at its end, however it ends.
struct Calling {
  explicit Calling(Call& call) : call(call) {}
  ~Calling() { call.clear(); }
  Calling(const Calling&) = delete;
  Calling& operator=(const Calling&) = delete;
  Call& call;
};

// The order of the rows of an epoch, each of which is in range: a copy of an array, which may be somebody's, or drawn from
// (n, seed, epoch, array of n rows or None), a permutation of these or of all.
class Order {
 public:
  // What is given for an epoch of a data set of `n` rows, or goes on with it.
  void read(py::handle order, Index n, bool anew);
  // The rows; needs no GIL. Throws Unsupported for one that is out of range, std::bad_alloc.
  const int64_t* draw();
  Index size() const noexcept { return size_; }
  void clear() {
    source_ = py::object();
    rows_ = {};
  }

 private:
  py::object source_;
  std::vector<int64_t> rows_;
  Index size_ = 0, n_ = 0;
  bool drawn_ = false;
  uint64_t seed_ = 0, epoch_ = 0;
  const int64_t* of_ = nullptr;  // the rows that are permuted
};

// Finds the arrays of all layers; whether they are of float64.
bool look_up(const std::vector<LayerObject>& layers, Call& call);

// The ratios of dropout as they are at a step of the trainer, or after as many as each has done; or as they are given. May call
// schedules.
void read_ratios(const std::vector<LayerObject>& layers, Call& call, const double* ratios, const uint64_t* step);

// The layers as they are now, for data whose features are known.
template <class T>
void read_layers(const std::vector<LayerObject>& layers, Call& call, std::vector<Layer<T>>& to);

// What a trainer does beside its network. `epochs`: it goes through many steps; `rates`: the learning rates are given. May call
// the optimizer's schedule.
network::Rule read_rule(Call& call, py::handle trainer, bool epochs, bool rates);

// Sets what makes a step in numbers of T stop, where the rule says so.
template <class T>
void limit(network::Rule& rule);

// The rows of a part, where a trainer's steps are made of parts; or 0.
Index read_part(const Call& call);

// Which parameters have factors of their own, or are frozen, as the optimizer's groups say; and which Muon updates as a whole.
void read_groups(Call& call, const std::vector<LayerObject>& layers);

// Rows of numbers, or of indices, as they lie there; of other types, or with gaps within rows, they are converted if they may be.
struct Rows {
  ops::RowSource from;
  Index n;
  py::object array;  // where they lie
};
template <class T>
Rows read_rows(Call& call, const char* name, py::handle array, bool may_convert, bool indices);

// Labels or targets for n rows of `outputs` numbers; labels are checked, and targets so many rows at a time.
template <class T>
void read_targets(Call& call, network::Data& data, const network::LossRule& loss, py::handle t, Index n, Index outputs,
                  Index check_rows);

template <class T>
constexpr ops::Number number_of() {
  return sizeof(T) == 4 ? ops::Number::f32 : ops::Number::f64;
}

}  // namespace fastnn::bindings
