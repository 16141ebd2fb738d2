#pragma once
// Threads for one purpose, which end with it. (Those of teams are kept: see core/workers.cpp.)
#include <functional>
#include <thread>
#include <vector>

namespace fastnn {

class Threads {
 public:
  // At most so many, each of which calls work() once: fewer where the system makes no more. They take no signals, which are the
  // program's.
  Threads(int most, const std::function<void()>& work) noexcept;
  ~Threads() { join(); }
  Threads(const Threads&) = delete;
  Threads& operator=(const Threads&) = delete;

  void join() noexcept;

 private:
  std::vector<std::thread> threads_;
};

}  // namespace fastnn
