#pragma once
// Sums over rows, in an order that pieces of the rows make: each piece's rows are added up by themselves, in a room of its own,
// and the rooms along a tree.
#include "core/types.h"

namespace fastnn::ops {

struct Leaf {
  Index begin, end;  // rows
  int merges;        // when they are added up: so many times, the last room is added to the one before it
  Index piece;       // its number
};
struct Leaves {
  const Leaf* data;
  Index count;
  int rooms;  // that are needed at a time
  int roots;  // rooms that are left
  const Leaf* begin() const noexcept { return data; }
  const Leaf* end() const noexcept { return data + count; }
};

// Calls sum(leaf, room) and merge(left, right), by the numbers of rooms.
template <class Sum, class Merge>
void add_up(const Leaves& leaves, Sum&& sum, Merge&& merge) {
  int top = 0;
  for (const Leaf& leaf : leaves) {
    sum(leaf, top++);
    for (int i = 0; i < leaf.merges; ++i, --top) merge(top - 2, top - 1);
  }
}

}  // namespace fastnn::ops
