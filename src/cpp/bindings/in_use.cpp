#include "bindings/in_use.h"

#include <pybind11/pybind11.h>
#include <sched.h>

#include <algorithm>
#include <chrono>
#include <memory>
#include <stdexcept>

#include "bindings/arrays.h"
#include "core/team.h"

namespace fastnn::bindings {
namespace {

[[noreturn]] void refuse_thread() {
  throw std::runtime_error("this object is in use by another thread: give each thread its own, or take turns");
}

}  // namespace

class InUse::Alone {
 public:
  explicit Alone(const InUse& lock) noexcept : flag_(lock.guarded_) {
    while (flag_.exchange(true, std::memory_order_acquire)) sched_yield();
  }
  ~Alone() { flag_.store(false, std::memory_order_release); }
  Alone(const Alone&) = delete;
  Alone& operator=(const Alone&) = delete;

 private:
  std::atomic<bool>& flag_;
};

InUse::Holder InUse::this_thread() noexcept { return PyThread_get_thread_ident(); }

// Raises while another thread writes.
void InUse::check(Holder self) {
  if (const int generation = fork_generation(); generation != generation_) {
    const auto other = [&](const Reader& reader) { return reader.thread != self; };
    readers_.erase(std::remove_if(readers_.begin(), readers_.end(), other), readers_.end());
    reading_.store(!readers_.empty(), std::memory_order_relaxed);
    if (owner_ != self && !lent_) depth_ = 0;
    generation_ = generation;
  }
  if (depth_ > 0 && owner_ != self) refuse_thread();
}

void InUse::enter(Holder self, bool lent) {
  const Alone alone(*this);
  check(self);
  for (const Reader& reader : readers_)
    if (reader.thread != self) refuse_thread();
  owner_ = self;
  lent_ = lent;
  depth_.store(depth_.load(std::memory_order_relaxed) + 1, std::memory_order_relaxed);
}

void InUse::enter_reading(Holder self) {
  const Alone alone(*this);
  check(self);
  for (Reader& reader : readers_)
    if (reader.thread == self) {
      ++reader.depth;
      return;
    }
  readers_.push_back({self, 1});
  reading_.store(true, std::memory_order_relaxed);
}

void InUse::leave_reading(Holder self) noexcept {
  const Alone alone(*this);
  const auto own = std::find_if(readers_.begin(), readers_.end(), [&](const Reader& reader) { return reader.thread == self; });
  if (own == readers_.end() || --own->depth > 0) return;
  readers_.erase(own);
  reading_.store(!readers_.empty(), std::memory_order_relaxed);
}

// Who reads one of the other networks has not taken this lock: it is waited for, since predictions end.
void InUse::join(InUse& network) {
  constexpr std::chrono::seconds kLongest{1};
  for (const auto since = std::chrono::steady_clock::now(); !try_join(network);) {
    if (std::chrono::steady_clock::now() - since > kLongest) refuse_thread();
    const WithoutGil released;
    sched_yield();
  }
}

bool InUse::try_join(InUse& network) {
  const Holder self = this_thread();
  const Alone alone(*this);
  networks_.push_back(&network);
  find_shared();  // first: whoever takes one of the others from here on sees it
  const auto leave = [&] {
    networks_.pop_back();
    find_shared();
  };
  try {
    for (InUse* other : networks_) {
      if (other == &network) continue;
      const Alone also(*other);
      other->check(self);
      for (const Reader& reader : other->readers_)
        if (reader.thread != self) {
          leave();
          return false;
        }
    }
  } catch (...) {
    leave();
    throw;
  }
  return true;
}

void InUse::part(InUse& network) noexcept {
  const Alone alone(*this);
  const auto at = std::find(networks_.begin(), networks_.end(), &network);
  if (at != networks_.end()) networks_.erase(at);
  find_shared();
}

void InUse::find_shared() noexcept {
  shared_ = std::any_of(networks_.begin(), networks_.end(), [&](InUse* other) { return other != networks_.front(); });
}

void bind_in_use(py::module_& m) {
  py::class_<InUse>(m, "InUse")
      .def(py::init<>())
      .def("__enter__", [](InUse& lock) { lock.enter(); })
      .def("__exit__", [](InUse& lock, const py::args&) { lock.leave(); })
      .def("enter_reading", [](InUse& lock) { lock.enter_reading(); })
      .def("leave_reading", [](InUse& lock) { lock.leave_reading(); })
      .def(py::pickle([](const InUse&) { return py::tuple(); }, [](const py::tuple&) { return std::make_unique<InUse>(); }));
}

}  // namespace fastnn::bindings
