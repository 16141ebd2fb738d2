#pragma once
// A network compiled for batches of one size: where everything lies, which ops are fused, how each product is computed. A step is
// then one walk through it by each member of a team.
//
// A piece of a batch's rows is taken forward through the layers, through the loss and back again by one member; only batch
// normalization, which needs all rows, is shared by columns, and large weights are multiplied by all members together. Then come
// the weights' gradients, shared by the weights' rows, with the update of each tile of weights while its gradient is in cache. A
// batch of few rows is shared by columns throughout, at the price of a phase for every layer.
#include "core/team.h"
#include "network/arena.h"
#include "network/spec.h"
#include "ops/embedding.h"
#include "ops/gemm.h"

namespace fastnn::network {

enum class Use {
  step,    // forward, loss, backward and update in one
  halves,  // forward, and then backward by a gradient that comes from elsewhere
  infer,
};

template <class T>
class Plan {
 public:
  // Compiles for batches of `rows` and teams of at most `members`; costs little where nothing has changed but pointers. `clip`:
  // whether updates have a norm to keep; `tree`: as the batches will have one, of which some pieces may not count
  // then. Throws std::bad_alloc.
  void prepare(const std::vector<Layer<T>>& layers, Index rows, int members, Use use, bool clip, const Tree* tree = nullptr);

  // Makes rows [begin, end) of the batch, before they are used; `rows` may be null.
  struct Feed {
    void (*rows)(const void* context, Index begin, Index end);
    const void* context;
  };
  // One step. Where its loss, or the norm to be clipped, is not finite and the rule says so, nothing has changed but gradients.
  struct Outcome {
    double loss;
    bool updated;
  };
  Outcome step(Team& team, const Batch<T>& batch, const Rule& rule, const Feed& feed) noexcept;
  // A part of a step: its gradients go to `sums`, as many numbers as there are parameters, or with the last of them to the
  // layers, for one update. The parts before have left the running statistics as they make them. Not for an embedding; prepared
  // with clip.
  struct Share {
    double divisor;  // of all rows
    T* sums;
    bool first, last;
  };
  Outcome step_part(Team& team, const Batch<T>& batch, const Rule& rule, const Feed& feed, const Share& share) noexcept;
  // The pieces at hand of a batch that others have pieces of: the gradients that they add up to go to `to`, root by root, as many
  // numbers as are trained. Returns false where the rule minds a loss of theirs; `divisor` is of the whole batch. No embedding.
  bool pieces(Team& team, const Batch<T>& batch, const Rule& rule, const Feed& feed, double divisor, double* losses,
              T* to) noexcept;
  Index trained() const noexcept;  // how many numbers that is
  // The batch's, of the layers of batch normalization.
  const T* mean(std::size_t layer) const noexcept { return nodes_[layer].mean; }
  const T* variance(std::size_t layer) const noexcept { return nodes_[layer].var; }
  // The halves. Forward, in training, to contiguous outputs; running statistics are left alone. What it keeps stays until the
  // next.
  void forward(Team& team, const Batch<T>& batch, uint64_t step, const Feed& feed, T* out) noexcept;
  void update_statistics() noexcept;
  // Backward, given the gradient of the outputs: `parameters`: fills their gradients; dx: that of the input, or null.
  void backward(Team& team, const Batch<T>& batch, const T* dout, bool parameters, T* dx) noexcept;
  // Backward and update, statistics too, as step(): returns false, and nothing has changed but gradients, where what is to be
  // remembered, or the norm to be clipped, is not finite and the rule says so.
  bool finish(Team& team, const Batch<T>& batch, const T* dout, const Rule& rule) noexcept;

  // The output of the network as it is without training, contiguous.
  void infer(Team& team, const Batch<T>& batch, const Feed& feed, T* out) noexcept;

  void set_ratios(const double* ratios) noexcept;                 // of all layers of dropout, in order
  const T* predictions() const noexcept { return predictions_; }  // of the loss, by the last step
  Index rows() const noexcept { return rows_; }
  Index outputs() const noexcept { return outputs_; }
  int members() const noexcept { return members_; }  // that it was prepared for
  // The mask of a layer of dropout: bit i of a byte is its i-th element.
  const uint8_t* kept(std::size_t layer) const noexcept { return nodes_[layer].keep; }
  // Of the embedding that the network begins with, by the last step: its distinct indices and their gradients.
  const std::vector<int64_t>& embedding_rows() const noexcept { return occurrences_.rows; }
  const T* embedding_values() const noexcept { return nodes_.front().values; }
  // What one thread takes for a step (or for infer), in nanoseconds; and for the forward half of it.
  double cost() const noexcept { return cost_; }
  double forward_cost() const noexcept { return forward_cost_; }

 private:
  struct Part;
  struct Update;
  struct Node {
    Layer<T> layer;
    T* x;   // input: the output of the node before; null for the first, whose input is the batch
    T* y;   // output; x where the op is in place
    T* dy;  // the gradient with respect to y, which an element-wise op turns into that with respect to x in place
    T *mean, *rstd, *var;
    uint8_t* keep;
    T* values;            // an embedding's gradient: a row for each distinct index
    std::size_t begin;    // of a sum: the node where its block begins
    T* whole;             // of the beginning of a block: the gradient with respect to the block's output
    bool forward_fused;   // done by the affine layer before, on parts of its output that are in cache
    bool backward_fused;  // done by the affine layer after
    bool wants_dx;        // some layer before has parameters
    T *dgamma, *dbeta;    // of batch normalization, where those of the parameters are not wanted
    T* sums;              // of normalization by rows: for each block of rows, those of dgamma and dbeta
    bool together;        // its products are shared as the team sees fit: packing large weights is work to be shared, too
    ops::GemmPlan forward, for_dx, for_dw;
    T *shared_forward, *shared_dx, *shared_dw;  // scratch of these products
    const Update* update;                       // of the weight, while its gradient is made
    T *by_piece, *rooms;                        // of a tree: what its pieces come to, and rooms for sums of two of its columns
  };
  // What happens to the rows of a batch, one after the other.
  enum class Act { feed, forward, loss, output, gradient, backward };
  struct Op {
    Act act;
    std::size_t node;
  };
  // The call that goes through the ops.
  struct Pass {
    const Batch<T>& batch;
    const Feed& feed;
    bool train;
    uint64_t step;
    const Rule* rule;
    double factor;  // of the loss's gradient
    T* out;
    const T* dout;
    bool parameters;  // whether their gradients are wanted
  };
  struct Range {
    Index begin, end;
  };
  // A part of the gradients' phase: a weight's product, or what is by columns, or rows of an embedding.
  struct Task {
    enum Kind { weight, columns, rows } kind;
    Node* node;
    ops::Gemm<T> product;
    ops::GemmCut cut;
    Index pieces;  // of each share
  };

  void connect(const std::vector<Layer<T>>& layers);
  bool shares_gradient(std::size_t node) const noexcept;
  template <class Take>
  void place_activations(Index rows, Take&& take);
  template <class Take>
  void place_products(Index rows, Take&& take);
  double estimate(Index rows, bool backward) const;

  bool takes_rows(const Op& op) const noexcept;
  Index row_cuts(const Team& team) const noexcept;
  Range rows_of_piece(Index piece, Index shares, Index cuts) const noexcept;
  // Where the first block of rows begins at or after a row, whose sums normalization by rows makes together; and its number.
  Index block_at(Index row) const noexcept;
  Index to_block(Index row) const noexcept { return blocks_.empty() ? row : blocks_[static_cast<std::size_t>(block_at(row))]; }

  const T* input(const Node& node, const Batch<T>& batch) const noexcept { return node.x ? node.x : batch.x; }
  // What a sum adds: the input of its block.
  const T* led_around(const Node& node, const Batch<T>& batch) const noexcept { return input(nodes_[node.begin], batch); }
  const T* saved(const Node& node, const Batch<T>& batch) const noexcept {  // what an activation's backward reads
    return activation_uses_output(node.layer.activation) ? node.y : input(node, batch);
  }
  ops::NormColumns<T> columns(const Node& node, const T* x, Index begin, Index end) const noexcept;
  ops::Gemm<T> weight_gradient(const Node& node, const T* x, Index rows) const noexcept;
  ops::Gemm<T> forward_product(const Node& node, const T* x) const noexcept;
  ops::Gemm<T> input_gradient(const Node& node, T* dx, bool by_batch) const noexcept;
  // What the sum of the rows' weighted losses is divided by.
  double divisor(const Batch<T>& batch, const Rule& rule) const noexcept;
  double total_loss(const Batch<T>& batch, Range rows, double divisor) const noexcept;

  // The gradient with respect to a node's input.
  T* dx_of(std::size_t node) const noexcept { return node == 0 || (node == first_ && !dx_) ? dx_ : nodes_[node - 1].dy; }
  void walk(Team& team, const Pass& pass, std::size_t begin, std::size_t end) noexcept;
  void apply_together(Team& team, const Op& op, const Pass& pass) noexcept;
  // An op on some rows, by the member of a rank; element-wise ops on the numbers [begin, end) of the layer, of these or of any
  // rows.
  void apply(const Op& op, const Pass& pass, Range rows, Range numbers, int rank) noexcept;
  template <class F>
  void with_part(const Op& op, const Pass& pass, F&& f) noexcept;
  RowNorm<T> rows_to_normalize(const Node& node, const T* x, Range rows) const noexcept;
  void rows_gradient(const Node& node, const T* x, Range rows, T* dx) const noexcept;
  // of_piece(its columns, its first row, what they come to) for the pieces at hand; then all processes have what all come to.
  template <class F>
  void make_sums(Team& team, const Node& node, const Batch<T>& batch, F&& of_piece) noexcept;
  // Adds up columns [begin, end) of these along the tree, to the first room: merge(left, right, rows of each).
  template <class F>
  void add_sums(const Node& node, const Tree& tree, Range columns, F&& merge) const noexcept;
  void normalize_pieces(Team& team, const Node& node, const Pass& pass) noexcept;
  void pieces_gradient(Team& team, const Node& node, const Pass& pass, T* dx) noexcept;
  void loss(const Pass& pass, Range rows) noexcept;
  void gradients(Team& team, const Batch<T>& batch, const Update* update) noexcept;
  void plan_gradients(Team& team, const Batch<T>& batch, const Update* update) noexcept;
  void columns_gradient(const Node& node, const Batch<T>& batch, Range columns, const Update* update) const noexcept;
  void update_statistics(const Node& node, Index begin, Index end) const noexcept;
  void update_running(const Node& node, Index begin, Index end) const noexcept;
  void blend(const T* now, T* average, Index n) const noexcept;
  void update_rows(const Node& node, Index begin, Index end, const Update& update) const noexcept;
  template <class F>
  void each_gradient(F&& f) const;
  bool finite_statistics() const noexcept;
  bool clip_and_update(Team& team, const Rule& rule, const Update& update) noexcept;
  bool update(Team& team, const Batch<T>& batch, const Rule& rule) noexcept;
  double pass(Team& team, const Batch<T>& batch, const Rule& rule, const Feed& feed, double divisor) noexcept;
  Update prepare_update(const Rule& rule) noexcept;
  void update_matrices(Team& team, const Rule& rule) noexcept;

  std::vector<Node> nodes_;
  std::vector<Op> ops_;      // of a step, of both halves, or of infer()
  std::size_t turn_ = 0;     // where the second half begins
  std::size_t needed_ = 0;   // where the gradients of all parameters can be had
  std::size_t first_ = 0;    // the first node with parameters
  T* dx_ = nullptr;          // where the gradient with respect to its input goes, if anywhere
  std::vector<Task> tasks_;  // of the gradients
  Arena arena_;
  Index rows_ = -1, outputs_ = 0;
  int members_ = 1;
  Use use_ = Use::infer;
  bool train_ = false, clip_ = false;
  bool by_rows_ = true;  // pieces of rows go through several ops; if not, each op is shared by columns
  int row_phases_ = 1;
  double cost_ = 0, forward_cost_ = 0;
  Index own_size_ = 0, grain_ = 1;
  T *own_ = nullptr, *matrix_ = nullptr;  // scratch: of each member, and of a matrix that is updated as a whole
  T *predictions_ = nullptr, *factors_ = nullptr;
  double *losses_ = nullptr, *norms_ = nullptr;
  bool in_pieces_ = false;
  Tree shape_;                 // of the pieces then
  std::vector<Index> blocks_;  // where the rows' blocks begin, and the last ends; none without normalization by rows
  Index root_stride_ = 0;
  std::vector<T> loss_numbers_;
  std::vector<T*> own_gradients_;           // where they are to be but in a piece
  T average_share_ = 0, average_rest_ = 0;  // of the new and of the old in averages
  std::vector<OptimizerStep<T>> steps_;     // of the rule, and with each of its factors
  ops::Occurrences occurrences_;
};

}  // namespace fastnn::network
