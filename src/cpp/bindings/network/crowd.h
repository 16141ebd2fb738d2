#pragma once
// The slices of many trainings in hand at once: threads without Python do them, while the calling thread does what is Python's.
#include <condition_variable>
#include <deque>
#include <memory>
#include <mutex>
#include <optional>

#include "bindings/network/job.h"
#include "core/threads.h"

namespace fastnn::bindings {

// Used by one thread, which holds the networks' locks. Each slice is one thread's from its beginning to its end: networks as
// small as those that are trained together have nothing for a team.
class Crowd {
 public:
  // For so many trainings: with the calling thread as many threads as the limits allow, and no more than there is work for.
  explicit Crowd(int members);
  ~Crowd() { close(); }
  Crowd(const Crowd&) = delete;
  Crowd& operator=(const Crowd&) = delete;

  // Has a slice done, `arguments` as train() takes them.
  void begin(py::object member, py::object network, py::tuple arguments);
  // A slice that is done, as (member, its result or the exception that it raised); does one itself as long as none is. None where
  // none is in hand.
  py::object next();
  // Waits for those that are being done, writes back what they have come to, and forgets the others.
  void close();

 private:
  struct Slice {
    py::object member, network;
    py::tuple arguments;
    CompiledNetwork::Request request;
    std::optional<CompiledNetwork::Job> job;
    py::object result = py::none();
  };
  using Slices = std::deque<std::unique_ptr<Slice>>;

  // What the threads share. A forked child leaves it as it is: nobody there will wake those who wait.
  struct Table {
    std::mutex mutex;
    std::condition_variable waits, ends;
    Slices waiting, done;
    int running = 0;
    bool closed = false;
    std::optional<Threads> helpers;
  };

  static void help(Table& table) noexcept;
  // One that is done; null where none is in hand. Without the GIL.
  static std::unique_ptr<Slice> wait(Table& table);
  static void finish(Slice& slice);
  void check() const;

  const int forks_;
  std::unique_ptr<Table> table_;
};

}  // namespace fastnn::bindings
