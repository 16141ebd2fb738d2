// What POSIX and C++ alone have. Members of a team stay where the system puts them.
#include <pthread.h>

#include <condition_variable>
#include <mutex>

#include "core/system.h"

namespace fastnn::system {
namespace {

// One for all who sleep. A forked child begins with another, since a thread that it has not got may hold its parent's.
struct Room {
  std::mutex mutex;
  std::condition_variable called;
};
std::atomic<Room*> room{new Room};
const int fork_handler = pthread_atfork(nullptr, nullptr, [] { room.store(new Room); });

}  // namespace

int processor() noexcept { return -1; }
bool allowed_processors(ProcessorSet&) noexcept { return false; }

Thread this_thread() noexcept { return 0; }
bool move(Thread, const ProcessorSet&) noexcept { return false; }

void sleep(const std::atomic<uint32_t>& word, uint32_t value) noexcept {
  Room& here = *room.load();
  std::unique_lock<std::mutex> lock(here.mutex);
  here.called.wait(lock, [&] { return word.load() != value; });
}
void wake(const std::atomic<uint32_t>&, int) noexcept {
  Room& here = *room.load();
  {
    const std::lock_guard<std::mutex> lock(here.mutex);
  }  // who has seen the old value sleeps by now
  here.called.notify_all();
}

unsigned long long libraries_loaded() noexcept { return 0; }
void each_library(void (*)(const char* path, void* context), void*) noexcept {}

}  // namespace fastnn::system
