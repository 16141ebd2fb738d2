#pragma once
// Who may work on an object at the same time.
#include <atomic>
#include <vector>

namespace fastnn::bindings {

// Held by a thread while a call of its works on an object: by one that changes it, or by any number that only read. Another that
// comes meanwhile and may not gets RuntimeError. A thread may enter again what it holds, and write where it alone reads. Needs no
// GIL.
class InUse {
 public:
  using Holder = unsigned long;  // a thread, or the address of what an object is lent to
  static Holder this_thread() noexcept;

  // `lent`: to an object, which a child of this process has a copy of, rather than to a thread, which it has not.
  void enter(Holder self = this_thread(), bool lent = false);
  void leave() noexcept { depth_.store(depth_.load(std::memory_order_relaxed) - 1, std::memory_order_release); }  // its own
  void enter_reading(Holder self = this_thread());
  void leave_reading(Holder self = this_thread()) noexcept;

  // The lock of a layer is told of the networks that the layer is in: of one alone, that network's guards it, too. Raises where
  // another thread has one of the others at the moment.
  void join(InUse& network);
  bool try_join(InUse& network);  // false while other threads read one of the others
  void part(InUse& network) noexcept;
  // Whether a network has to enter it: it is in others, too, or held at the moment.
  bool counts() const noexcept {
    return shared_.load(std::memory_order_relaxed) || depth_.load(std::memory_order_relaxed) > 0 ||
           reading_.load(std::memory_order_relaxed);
  }

 private:
  class Alone;  // guards what follows, for some nanoseconds
  void check(Holder self);
  void find_shared() noexcept;

  struct Reader {
    Holder thread;
    int depth;
  };
  mutable std::atomic<bool> guarded_{false};
  Holder owner_ = 0;  // who writes
  bool lent_ = false;
  std::atomic<int> depth_{0};
  std::vector<Reader> readers_;
  std::atomic<bool> reading_{false};  // whether there are any
  std::vector<InUse*> networks_;
  std::atomic<bool> shared_{false};
  int generation_ = 0;  // of the process, by forks: the threads of a parent hold nothing in its child
};

class Hold {
 public:
  explicit Hold(InUse& lock) : lock_(lock) { lock_.enter(); }
  ~Hold() { lock_.leave(); }
  Hold(const Hold&) = delete;
  Hold& operator=(const Hold&) = delete;

 private:
  InUse& lock_;
};
class HoldReading {
 public:
  explicit HoldReading(InUse& lock) : lock_(lock) { lock_.enter_reading(); }
  ~HoldReading() { lock_.leave_reading(); }
  HoldReading(const HoldReading&) = delete;
  HoldReading& operator=(const HoldReading&) = delete;

 private:
  InUse& lock_;
};

}  // namespace fastnn::bindings
