#include "core/threads.h"

#include <signal.h>

#include <exception>

namespace fastnn {

Threads::Threads(int most, const std::function<void()>& work) noexcept {
  sigset_t all, before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  try {
    for (int i = 0; i < most; ++i) threads_.emplace_back(work);
  } catch (const std::exception&) {
  }
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
}

void Threads::join() noexcept {
  for (std::thread& thread : threads_) thread.join();
  threads_.clear();
}

}  // namespace fastnn
