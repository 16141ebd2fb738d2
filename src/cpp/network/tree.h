#pragma once
// A batch in pieces. What each comes to is added up along a binary tree that their numbers alone make: node (level, place) is the
// sum of nodes (level - 1, 2 place) and (level - 1, 2 place + 1), or the one of them that there is.
#include <algorithm>
#include <cstdint>
#include <vector>

#include "ops/leaves.h"

namespace fastnn::network {

struct TreeNode {
  int level;
  int64_t place;
};

class Tree {
 public:
  // For pieces of which number i has `rows(i)` rows, or none; those of numbers [first, last) are at hand, their rows one after
  // the other. Throws std::bad_alloc.
  template <class Rows>
  void cut(Index count, Index first, Index last, Rows&& rows) {
    first_ = first;
    last_ = last;
    bounds_.assign(1, 0);
    for (Index i = 0; i < count; ++i) bounds_.push_back(bounds_.back() + rows(i));
    own_.reserve(static_cast<std::size_t>(last - first));
    all_.reserve(static_cast<std::size_t>(count));
    roots_.reserve(static_cast<std::size_t>(last - first));
    grow(all_, nullptr, 0, count, bounds_.front(), [](Index) { return true; });
    weigh([](Index) { return true; });
  }
  // Of the pieces at hand only those count whose number counts. Throws nothing.
  template <class Counts>
  void weigh(Counts&& counts) noexcept {
    grow(own_, &roots_, first_, last_, begin(first_), counts);
  }

  Index count() const noexcept { return static_cast<Index>(bounds_.size()) - 1; }  // of all pieces
  Index first() const noexcept { return first_; }
  Index last() const noexcept { return last_; }
  Index begin(Index piece) const noexcept {
    return bounds_[static_cast<std::size_t>(piece)];
  }  // its first row in the whole batch
  Index rows() const noexcept { return begin(last_) - begin(first_); }  // at hand
  bool operator==(const Tree& other) const noexcept {
    return bounds_ == other.bounds_ && first_ == other.first_ && last_ == other.last_;
  }

  ops::Leaves own() const noexcept {
    return leaves(own_, static_cast<int>(roots_.size()));
  }  // rows counted from the first at hand
  ops::Leaves all() const noexcept { return leaves(all_, 1); }  // rows of the whole batch
  const std::vector<TreeNode>& roots() const noexcept { return roots_; }

 private:
  static ops::Leaves leaves(const std::vector<ops::Leaf>& of, int roots) noexcept {
    int rooms = 0, most = 0;
    for (const ops::Leaf& leaf : of) {
      most = std::max(most, ++rooms);
      rooms -= leaf.merges;
    }
    return {of.data(), static_cast<Index>(of.size()), most, roots};
  }

  // The leaves among pieces [first, last), and the nodes that they add up to: as near to the root as all of a node is among them.
  template <class Counts>
  void grow(std::vector<ops::Leaf>& leaves, std::vector<TreeNode>* roots, Index first, Index last, Index origin,
            Counts&& counts) {
    leaves.clear();
    if (roots) roots->clear();
    int level = 0;
    while ((Index{1} << level) < count()) ++level;
    const auto add = [&](auto&& self, int depth, Index place, bool whole) -> bool {  // whether there is anything
      const Index begin = place << depth, end = std::min((place + 1) << depth, count());
      if (begin >= last || end <= first || begin >= end) return false;
      const bool is_root = !whole && first <= begin && end <= last;
      whole = whole || is_root;
      bool any;
      if (depth == 0) {
        any = bounds_[static_cast<std::size_t>(place)] < bounds_[static_cast<std::size_t>(place) + 1] && counts(place);
        if (any) leaves.push_back({this->begin(place) - origin, this->begin(place + 1) - origin, 0, place});
      } else {
        const bool left = self(self, depth - 1, 2 * place, whole), right = self(self, depth - 1, 2 * place + 1, whole);
        any = left || right;
        if (whole && left && right) ++leaves.back().merges;
      }
      if (is_root && any && roots) roots->push_back({depth, place});
      return any;
    };
    add(add, level, 0, false);
  }

  std::vector<Index> bounds_;
  Index first_ = 0, last_ = 0;
  std::vector<ops::Leaf> own_, all_;
  std::vector<TreeNode> roots_;
};

}  // namespace fastnn::network
