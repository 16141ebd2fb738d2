#pragma once
// Many steps on a data set in one call: rows are gathered, converted and trained on without a word to anybody else.
#include "network/plan.h"

namespace fastnn::network {

// A data set whose rows have been found to fit: labels and indices are in range.
struct Data {
  ops::RowSource x;
  double scale;           // of x
  const int64_t* labels;  // (rows,), or null:
  ops::RowSource dense;
  const double* weight;  // (rows,), or null
  const int64_t* order;  // the rows in the order of their use, or null for 0, 1, ...
};

struct Steps {
  Index first, rows;  // the first step takes rows [first, first + rows) of the order, and so on
  Index part;         // of these rows, that are passed together, their gradients added up; no more than there are
  Index pieces;       // that a step's rows are cut into, as a Tree has them; 0: none. Not with parts
  Index count;
  // A row for each update, or null for what rule and layers have: the learning rate, the weight decay, and the ratios of dropout.
  const double* rates;
  Index rate_columns;
  double seconds;  // stops after the step during which so much time is over
  double* losses;  // room for `count` losses, of the updates done

  const double* rates_of(Index update) const { return rates ? rates + update * rate_columns : nullptr; }
};
struct Done {
  Index steps, updates;  // steps are gone through; those whose rows weigh nothing update nothing
  bool finite;           // if not, the step after the last did not update either: its loss, or the norm to be clipped, was not
  double loss;           // of that step
};

// Where the first of so many pieces, and so on, of n rows begin: only the last are empty, if there are fewer rows.
constexpr Index begin_of_piece(Index piece, Index pieces, Index n) {
  const Index whole = pieces < n ? pieces : n;
  return n * (piece < whole ? piece : whole) / whole;
}

// The pieces at hand of a batch that other processes have pieces of.
template <class T>
struct Pieces {
  Tree* tree;
  const uint8_t* counts;        // whether each piece of the batch does
  double divisor;               // of the batch's loss
  const Exchange<T>* exchange;  // or null
  double* losses;               // of each piece that counts, its part of the batch's
  T* room;                      // for the gradients of each root, as many numbers as are trained
};

template <class T>
class Runner {
 public:
  // For these steps' rows, parts or pieces; `alone`: by the calling thread. Throws std::bad_alloc.
  void prepare(const std::vector<Layer<T>>& layers, const Steps& steps, bool clip, bool alone = false);
  // The steps that it is prepared for. Throws std::bad_alloc before anything has changed.
  Done run(const std::vector<Layer<T>>& layers, const Data& data, const Steps& steps, const Rule& rule);
  // Prepares for these pieces and passes them; returns whether no loss is one that the rule minds. Throws std::bad_alloc.
  bool pieces(const std::vector<Layer<T>>& layers, const Data& data, const Rule& rule, const Pieces<T>& pieces);
  // What has gone through the last part, and what one thread takes for a step.
  const Plan<T>& last_plan() const noexcept { return *last_; }
  double cost() const noexcept { return cost_; }

 private:
  Plan<T> plan_, rest_;  // of whole parts, and of a smaller last one
  const Plan<T>* last_ = &plan_;
  Tree tree_;
  double cost_ = 0;
  Crew crew_{1, 0, false};
  Arena arena_;
  T *x_ = nullptr, *dense_ = nullptr;
  int64_t *indices_ = nullptr, *labels_ = nullptr;
  double* weight_ = nullptr;
  T *sums_ = nullptr, *statistics_ = nullptr;  // of parts: their gradients; the running statistics before them
};

// Steps in two halves, with whatever makes the gradient of the outputs in between: what forward keeps stays until the next.
template <class T>
class Halves {
 public:
  // For so many rows, and updates with a norm to keep if `clip`. Throws std::bad_alloc.
  void prepare(const std::vector<Layer<T>>& layers, Index rows, bool clip);
  // Rows [first, first + rows) of the order, times scale, to (rows, outputs) numbers. `step`: what dropout's counters begin with.
  // Rows that can be used as they lie must stay there. Throws std::bad_alloc.
  void forward(const std::vector<Layer<T>>& layers, const ops::RowSource& x, const int64_t* order, Index first, double scale,
               uint64_t step, T* out);
  void update_statistics() noexcept { plan_.update_statistics(); }
  // The layers as they are now, of the same shapes.
  void renew(const std::vector<Layer<T>>& layers) { plan_.prepare(layers, batch_.rows, plan_.members(), Use::halves, clip_); }
  // As Plan's. The layers may have others of the same shapes for gradients.
  void backward(const std::vector<Layer<T>>& layers, const T* dout, bool parameters, T* dx);
  bool finish(const std::vector<Layer<T>>& layers, const T* dout, const Rule& rule);
  const Plan<T>& plan() const noexcept { return plan_; }
  Index rows() const noexcept { return batch_.rows; }

 private:
  Crew crew_for_half(double nanoseconds) const noexcept;

  Plan<T> plan_;
  Arena arena_;
  Batch<T> batch_{};
  bool clip_ = false;
  T* x_ = nullptr;
  int64_t* indices_ = nullptr;
};

// Predictions, a few hundred rows at a time.
template <class T>
class Predictor {
 public:
  // For `n` rows. Throws std::bad_alloc.
  void prepare(const std::vector<Layer<T>>& layers, const ops::RowSource& x, Index n, double scale);
  // Throws std::bad_alloc, with some of `out` written.
  void run(const std::vector<Layer<T>>& layers, const ops::RowSource& x, Index n, double scale, T* out);
  double cost() const noexcept { return cost_; }  // what one thread takes for all rows, in nanoseconds

 private:
  static constexpr Index kRows = 256;  // whose activations stay in the second-level cache

  Plan<T> plan_;
  Crew crew_{1, 0, false};
  Arena arena_;
  T* x_ = nullptr;
  int64_t* indices_ = nullptr;
  bool in_place_ = false;
  double cost_ = 0;
};

}  // namespace fastnn::network
