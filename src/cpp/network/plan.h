#pragma once
// A network compiled for batches of one size: where everything lies, which ops are fused, how each product is computed. A step is
// then one walk through it by each member of a team.
//
// The rows of a batch are shared among the members, each of which takes its rows forward through the layers, through the loss and
// back again without waiting for the others; only batch normalization, which needs all rows, is shared by columns. They meet
// once before the weights' gradients are computed, shared by the weights' rows, with the update of each tile of weights while its
// gradient is in cache. A batch of few rows is shared by columns throughout, at the price of a meeting after every layer.
#include "core/team.h"
#include "network/arena.h"
#include "network/spec.h"
#include "ops/embedding.h"
#include "ops/gemm.h"

namespace fastnn::network {

template <class T>
class Plan {
 public:
  // Compiles for batches of `rows` and teams of at most `members`; costs little where nothing has changed but pointers. `train`:
  // a step follows, not infer(). Throws std::bad_alloc.
  void prepare(const std::vector<Layer<T>>& layers, Index rows, int members, bool train, bool clip);

  // One step, by each member. Where its loss, or the norm to be clipped, is not finite and the rule says so, nothing has changed
  // but gradients.
  struct Outcome {
    double loss;
    bool updated;
  };
  Outcome step(Team& team, const Batch<T>& batch, const Rule& rule) noexcept;
  // The output of the network as it is without training, by each member, contiguous; it is whole after a barrier.
  void infer(Team& team, const Batch<T>& batch, T* out) noexcept;

  // The rows of a batch that a member works on from its beginning on, alone, until the others are met.
  struct Range {
    Index begin, end;
  };
  Range rows_of(const Team& team) const noexcept;
  // Whether each member goes on with its own rows after what it has done to them; if not, the team must meet.
  bool by_rows(const Team& team) const noexcept;

  const T* predictions() const noexcept { return predictions_; }  // of the loss, by the last step
  Index outputs() const noexcept { return outputs_; }
  int members() const noexcept { return members_; }  // that it was prepared for
  // The mask of a layer of dropout: bit i of a byte is its i-th element.
  const uint8_t* kept(std::size_t layer) const noexcept { return nodes_[layer].keep; }
  // Of the embedding that the network begins with, by the last step: its distinct indices and their gradients.
  const std::vector<int64_t>& embedding_rows() const noexcept { return occurrences_.rows; }
  const T* embedding_values() const noexcept { return nodes_.front().values; }
  // What one thread takes for a step (or for infer), in nanoseconds.
  double cost() const noexcept { return cost_; }

 private:
  struct Node {
    Layer<T> layer;
    T* x;   // input: the output of the node before; null for the first, whose input is the batch
    T* y;   // output; x where the op is in place
    T* dy;  // the gradient with respect to y, which an element-wise op turns into that with respect to x in place
    T *mean, *rstd, *var;
    uint8_t* keep;
    T* values;            // an embedding's gradient: a row for each distinct index
    bool forward_fused;   // done by the affine layer before, on parts of its output that are in cache
    bool backward_fused;  // done by the affine layer after
    bool wants_dx;        // some layer before has parameters
    bool together;        // its products are shared as the team sees fit: packing large weights is work to be shared, too
    ops::GemmPlan forward, for_dx, for_dw;
    T *shared_forward, *shared_dx, *shared_dw;  // scratch of these products
  };
  struct Part;
  struct Update;

  void connect(const std::vector<Layer<T>>& layers);
  template <class Take>
  void place_activations(Index rows, Take&& take);
  template <class Take>
  void place_products(Index rows, Take&& take);
  double estimate(Index rows) const;

  Range run_of(const Team& team, Index width) const noexcept;
  void meet(Team& team) const noexcept;

  const T* input(const Node& node, const Batch<T>& batch) const noexcept { return node.x ? node.x : batch.x; }
  const T* saved(const Node& node, const Batch<T>& batch) const noexcept {  // what an activation's backward reads
    return activation_uses_output(node.layer.activation) ? node.y : input(node, batch);
  }
  ops::NormColumns<T> columns(const Node& node, const T* x, Index begin, Index end) const noexcept;
  ops::Gemm<T> weight_gradient(const Node& node, const T* x, Index rows) const noexcept;
  void product(Team& team, const Node& node, ops::Gemm<T> g, const ops::GemmPlan& plan, T* shared) noexcept;
  double weight_sum(const Batch<T>& batch) const noexcept;
  double total_loss(const Batch<T>& batch) const noexcept;

  void forward(Team& team, const Batch<T>& batch, bool train, uint64_t step) noexcept;
  void loss(Team& team, const Batch<T>& batch, const Rule& rule) noexcept;
  void backward(Team& team, const Batch<T>& batch) noexcept;
  void gradients(Team& team, const Batch<T>& batch, const Update* update) noexcept;
  void update_statistics(const Node& node, Index begin, Index end) const noexcept;
  void update_rows(const Node& node, Index begin, Index end, const Update& update) const noexcept;
  template <class F>
  void each_gradient(F&& f) const;
  bool clip_and_update(Team& team, const Rule& rule, const Update& update) noexcept;

  std::vector<Node> nodes_;
  Arena arena_;
  Index rows_ = -1, outputs_ = 0;
  int members_ = 1;
  bool train_ = false, clip_ = false;
  double cost_ = 0;
  Index own_size_ = 0, grain_ = 1;
  T *own_ = nullptr, *predictions_ = nullptr, *factors_ = nullptr;
  double *losses_ = nullptr, *norms_ = nullptr;
  ops::Occurrences occurrences_;
};

}  // namespace fastnn::network
