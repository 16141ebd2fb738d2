#pragma once
// What a call of the C interface is run in: nothing that is thrown leaves it.
#include <new>

#include <fastnn.h>
#include "core/limits.h"

namespace fastnn::bindings::c_api {

// While it lives, calls of this thread use at most so many threads; 0: as many as ever.
class ThreadLimit {
 public:
  explicit ThreadLimit(int threads) noexcept : before_(thread_override()), set_(threads > 0) {
    if (set_) set_thread_override(threads < kMaxThreads ? threads : kMaxThreads);
  }
  ~ThreadLimit() {
    if (set_) set_thread_override(before_);
  }
  ThreadLimit(const ThreadLimit&) = delete;
  ThreadLimit& operator=(const ThreadLimit&) = delete;

 private:
  int before_;
  bool set_;
};

// The status that f() returns, or that stands for what it throws.
template <class F>
int status_of(int threads, F&& f) noexcept {
  if (threads < 0) return FASTNN_INVALID;
  const ThreadLimit limit(threads);
  try {
    return f();
  } catch (const std::bad_alloc&) {
    return FASTNN_MEMORY;
  } catch (...) {
    return FASTNN_IN_USE;  // all else that is thrown below
  }
}

// Whether these can be sizes of arrays, and none of the arrays is missing.
template <class... Size>
bool sizes(Size... size) noexcept {
  return (... && (size >= 0));
}
template <class... Pointer>
bool present(bool any, const Pointer*... pointer) noexcept {
  return !any || (... && pointer);
}

}  // namespace fastnn::bindings::c_api
