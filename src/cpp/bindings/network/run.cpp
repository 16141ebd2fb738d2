#include "bindings/network/run.h"

#include <utility>

#include "bindings/network/job.h"

namespace fastnn::bindings {
namespace {

constexpr Index kConverted = 256;  // rows, at most, that are copied as a whole where they cannot be used as they lie

py::object not_implemented() { return py::reinterpret_borrow<py::object>(Py_NotImplemented); }

}  // namespace

// The gradient of the outputs as Python has made it: of their shape and type, contiguous.
template <class T>
py::object output_gradient(py::handle dout, Index rows, Index outputs) {
  py::object real =
      is_array(dout) && is_dtype<T>(dout) ? py::reinterpret_borrow<py::object>(dout) : as_real("dout", dout, new_vector<T>(0));
  if (rank(real) != 2 || extent(real, 0) != rows || extent(real, 1) != outputs)
    refuse("dout must have the output's shape (" + std::to_string(rows) + ", " + std::to_string(outputs) + "), got " +
           shape_of(real));
  return contiguous(real);
}
template py::object output_gradient<float>(py::handle, Index, Index);
template py::object output_gradient<double>(py::handle, Index, Index);

[[noreturn]] void refuse_replaced() {
  refuse("parameters must be the arrays of the last forward: some were replaced; call forward again");
}

CompiledNetwork::CompiledNetwork(InUse& lock, const py::tuple& layers)
    : lock_(lock), type_(only_class(Role::network)), layers_(layers_of(layers)) {
  try {
    for (; joined_ < layers_.size(); ++joined_)
      if (layers_[joined_].lock) layers_[joined_].lock->join(lock_);
  } catch (...) {
    part();
    throw;
  }
}

void CompiledNetwork::part() noexcept {
  while (joined_ > 0)
    if (const LayerObject& layer = layers_[--joined_]; layer.lock) layer.lock->part(lock_);
}

int CompiledNetwork::traverse(visitproc visit, void* arg) const {
  for (const LayerObject& l : layers_) {
    Py_VISIT(l.object.ptr());
    Py_VISIT(l.block.ptr());
  }
  Py_VISIT(pass_.ptr());
  Py_VISIT(pass_x_.ptr());
  return 0;
}

py::object CompiledNetwork::train(const py::args& arguments) { return train(Request::of(arguments)); }

py::object CompiledNetwork::step(py::handle trainer, py::handle x, py::handle t, py::handle weight, Index cut) {
  Request request{trainer, x, t, weight};
  request.cut = cut;
  return train(request);
}

// None where Python has to do it.
py::object CompiledNetwork::train(const Request& request) {
  try {
    Job job(*this, request);
    const double cost = job.prepare(false);
    if (job.runs_python())
      job.run();
    else
      unlocked(cost, [&] { job.run(); });
    return job.finish();
  } catch (const Unsupported&) {
    return py::none();
  }
}

py::object CompiledNetwork::pieces(py::handle trainer, py::handle x, py::handle t, py::handle weight, double scale,
                                   py::handle pieces) {
  Request request{trainer, x, t, weight};
  request.scale = scale;
  request.pieces = pieces;
  try {
    return Job(*this, request).pass_pieces();
  } catch (const Unsupported&) {
    return py::none();
  }
}

// Each step is one thread's: networks that are small enough to be trained side by side have nothing for a team.
py::list CompiledNetwork::step_together(const py::list& calls) {
  struct One {
    Request request;
    std::optional<Job> job;
    py::object result = py::none();
  };
  std::vector<One> all(calls.size());
  std::vector<Job*> ready;
  double cost = 0;
  const auto guarded = [](One& one, auto&& f) {
    try {
      f();
    } catch (const Unsupported&) {
      one.job.reset();
    } catch (...) {
      one.job.reset();
      one.result = current_exception();
    }
  };
  for (std::size_t i = 0; i < all.size(); ++i) {
    One& one = all[i];
    const py::tuple call = calls[i], arguments = call[1];
    guarded(one, [&] {
      one.request = Request::of(arguments);
      one.job.emplace(call[0].cast<CompiledNetwork&>(), one.request);
      cost += one.job->prepare(true);
      one.job->runs_python() ? one.job->run() : ready.push_back(&*one.job);
    });
  }
  unlocked(cost, [&] {
    run_team(crew_for(cost), [&](Team& team) {
      team.phase(static_cast<Index>(ready.size()), [&](Member& member) {
        for (Index i; (i = member.next()) >= 0;) ready[static_cast<std::size_t>(i)]->run();
      });
    });
  });
  py::list results;
  for (One& one : all) {
    if (one.job) guarded(one, [&] { one.result = one.job->finish(); });
    one.job.reset();
    results.append(one.result);
  }
  return results;
}

py::object CompiledNetwork::forward(py::handle x, py::handle pass) {
  const Hold hold(lock_);
  const WriteLayers hold_layers(layers_);
  if (training_ || passing_ || !type_.attributes.holds_for(type_.type)) return not_implemented();
  const Busy busy(passing_);
  const Calling calling(pass_call_);
  pass_call_.alone = pass_call_.keep = true;
  try {
    return look_up(layers_, pass_call_) ? forward_as(kept_f64_, x, pass) : forward_as(kept_f32_, x, pass);
  } catch (const Unsupported&) {
    return not_implemented();
  }
}

template <class T>
py::object CompiledNetwork::forward_as(Kept<T>& kept, py::handle x, py::handle pass) {
  Call& call = pass_call_;
  const Rows rows = read_rows<T>(call, "x", x, true, takes_indices());
  const Index n = rows.n;
  call.features = rows.from.cols;
  call.deep = takes_indices() || rank(x) > 2;
  std::vector<Layer<T>>& layers = kept.forward;
  read_ratios(layers_, call, nullptr, nullptr);
  for (std::size_t i = 0; i < layers_.size(); ++i) {
    if (layers_[i].kind != LayerKind::dropout) continue;
    const py::object first = find(call.layers[i].attributes, names().first_row);
    if (first && unsigned_number(first) != 0) throw Unsupported{};  // a part of a batch, by its layers one after the other
  }
  read_layers(layers_, call, layers);
  if (n == 0 || (n == 1 && normalizes(layers))) throw Unsupported{};  // which its layer refuses
  if (takes_indices() && !ops::in_range(rows.from, n, layers.front().vocabulary)) throw Unsupported{};
  py::object y = new_matrix<T>(n, layers.back().out);
  pass_ = pass_x_ = py::object();
  kept.halves.prepare(layers, n, false);
  unlocked(kept.halves.plan().forward_cost(), [&] {
    kept.halves.forward(layers, rows.from, nullptr, 0, 1, 0, data_of<T>(y));
    kept.halves.update_statistics();
  });
  const Names& name = names();
  for (std::size_t i = 0; i < layers.size(); ++i) {
    const py::object& attributes = call.layers[i].attributes;
    if (layers[i].kind == LayerKind::dropout) {
      attributes[name.step] = py::int_(layers[i].step + 1);
      write_kept(call, layers, kept.halves.plan(), i, x, n);
    }
    attributes[name.saved] = pass;
  }
  pass_shape_.assign(1, n);
  for (int axis = 1; axis < rank(x); ++axis) pass_shape_.push_back(extent(x, axis));
  pass_x_ = rows.array;
  pass_wide_ = sizeof(T) == sizeof(double);
  pass_ = py::reinterpret_borrow<py::object>(pass);
  return y;
}

py::object CompiledNetwork::backward(py::handle dout, bool parameters, bool input) {
  const Hold hold(lock_);
  const WriteLayers hold_layers(layers_);
  if (training_ || passing_ || !pass_ || !type_.attributes.holds_for(type_.type)) return not_implemented();
  const Busy busy(passing_);
  const Calling calling(pass_call_);
  pass_call_.train = parameters;
  pass_call_.keep = true;
  try {
    const bool wide = look_up(layers_, pass_call_);
    for (const Call::Found& layer : pass_call_.layers)
      if (!find(layer.attributes, names().saved).is(pass_)) return not_implemented();
    if (wide != pass_wide_) refuse_replaced();
    return wide ? backward_as(kept_f64_, dout, parameters, input) : backward_as(kept_f32_, dout, parameters, input);
  } catch (const Unsupported&) {
    return not_implemented();
  }
}

template <class T>
py::object CompiledNetwork::backward_as(Kept<T>& kept, py::handle dout, bool parameters, bool input) {
  Call& call = pass_call_;
  const std::vector<Layer<T>>& before = kept.forward;
  std::vector<Layer<T>>& layers = kept.backward;
  std::vector<double> ratios;  // the forward's
  for (const Layer<T>& layer : before)
    if (layer.kind == LayerKind::dropout) ratios.push_back(layer.ratio);
  read_ratios(layers_, call, ratios.data(), nullptr);
  call.features = before.front().in;
  read_layers(layers_, call, layers);
  const auto replaced = [](const network::Parameter<T>& a, const network::Parameter<T>& b) {
    return a.p != b.p || a.size != b.size;
  };
  for (std::size_t i = 0; i < layers.size(); ++i)
    if (replaced(layers[i].weight, before[i].weight) || replaced(layers[i].bias, before[i].bias)) refuse_replaced();
  const Index n = kept.halves.rows();
  const py::object dy = output_gradient<T>(dout, n, layers.back().out);
  const bool wants_dx = input && !takes_indices();
  py::object dx = py::none();
  if (wants_dx) dx = new_array(py::dtype::of<T>(), static_cast<int>(pass_shape_.size()), pass_shape_.data());
  const network::Plan<T>& plan = kept.halves.plan();
  unlocked(plan.cost() - plan.forward_cost(),
           [&] { kept.halves.backward(layers, data_of<const T>(dy), parameters, wants_dx ? data_of<T>(dx) : nullptr); });
  if (!parameters) return dx;
  for (const auto& [dict, key, array] : call.entries) dict[key] = array;
  write_embedding(layers_, call, layers, plan);
  return dx;
}

// One of a network's readers, as long as a prediction takes; a new one where all others are lent.
class CompiledNetwork::Lent {
 public:
  explicit Lent(CompiledNetwork& net) : net_(net) {
    {
      const std::lock_guard<std::mutex> lock(net_.lending_);
      if (!net_.readers_.empty()) {
        reader_ = std::move(net_.readers_.back());
        net_.readers_.pop_back();
      }
    }
    if (!reader_) reader_ = std::make_unique<Reader>();
  }
  ~Lent() {
    reader_->call.clear();  // which may run anything
    const std::lock_guard<std::mutex> lock(net_.lending_);
    net_.readers_.push_back(std::move(reader_));
  }
  Lent(const Lent&) = delete;
  Lent& operator=(const Lent&) = delete;
  Reader& operator*() const { return *reader_; }

 private:
  CompiledNetwork& net_;
  std::unique_ptr<Reader> reader_;
};

py::object CompiledNetwork::infer(py::handle x, double scale) {
  const HoldReading hold(lock_);
  const ReadLayers hold_layers(layers_);
  if (!type_.attributes.holds_for(type_.type)) return py::none();
  const Lent lent(*this);
  Reader& reader = *lent;
  try {
    const bool wide = look_up(layers_, reader.call);
    return wide ? infer_as(reader.call, reader.f64, x, scale) : infer_as(reader.call, reader.f32, x, scale);
  } catch (const Unsupported&) {
    return py::none();
  }
}

template <class T>
py::object CompiledNetwork::infer_as(Call& call, Inference<T>& typed, py::handle x, double scale) {
  read_ratios(layers_, call, nullptr, nullptr);
  const bool indices = takes_indices(), few = is_array(x) && rank(x) > 0 && extent(x, 0) <= kConverted;
  const Rows rows = read_rows<T>(call, "x", x, few, indices);
  const ops::RowSource& from = rows.from;
  const Index n = rows.n;
  if (n == 0 || (indices && scale != 1)) throw Unsupported{};
  call.features = from.cols;
  call.deep = indices || rank(x) > 2;
  std::vector<Layer<T>>& layers = typed.layers;
  read_layers(layers_, call, layers);
  if (indices && !ops::in_range(from, n, layers.front().vocabulary)) throw Unsupported{};
  py::object y = new_matrix<T>(n, layers.back().out);
  T* out = data_of<T>(y);
  typed.predictor.prepare(layers, from, n, scale);
  unlocked(typed.predictor.cost(), [&] { typed.predictor.run(layers, from, n, scale, out); });
  return y;
}

}  // namespace fastnn::bindings
