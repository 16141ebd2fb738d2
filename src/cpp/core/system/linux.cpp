#include <link.h>
#include <linux/futex.h>
#include <sched.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cstring>

#include "core/system.h"

namespace fastnn::system {

static_assert(sizeof(ProcessorSet) == sizeof(cpu_set_t) && ProcessorSet::kMost == CPU_SETSIZE);

int processor() noexcept { return sched_getcpu(); }

bool allowed_processors(ProcessorSet& set) noexcept {
  cpu_set_t system;
  if (sched_getaffinity(0, sizeof system, &system) != 0) return false;
  std::memcpy(set.words, &system, sizeof set.words);
  return true;
}

Thread this_thread() noexcept { return static_cast<Thread>(syscall(SYS_gettid)); }

bool move(Thread thread, const ProcessorSet& set) noexcept {
  cpu_set_t system;
  std::memcpy(&system, set.words, sizeof system);
  return sched_setaffinity(thread, sizeof system, &system) == 0;
}

void sleep(const std::atomic<uint32_t>& word, uint32_t value) noexcept {
  syscall(SYS_futex, &word, FUTEX_WAIT_PRIVATE, value, nullptr, nullptr, 0);
}
void wake(const std::atomic<uint32_t>& word, int count) noexcept {
  syscall(SYS_futex, &word, FUTEX_WAKE_PRIVATE, count, nullptr, nullptr, 0);
}

unsigned long long libraries_loaded() noexcept {
  unsigned long long n = 0;
  const auto first = [](dl_phdr_info* library, std::size_t, void* to) {
    *static_cast<unsigned long long*>(to) = library->dlpi_adds;
    return 1;
  };
  dl_iterate_phdr(first, &n);
  return n;
}

void each_library(void (*f)(const char* path, void* context), void* context) noexcept {
  struct Visit {
    void (*f)(const char*, void*);
    void* context;
  } visit{f, context};
  const auto one = [](dl_phdr_info* library, std::size_t, void* with) {
    const auto* const to = static_cast<const Visit*>(with);
    to->f(library->dlpi_name, to->context);
    return 0;
  };
  dl_iterate_phdr(one, &visit);
}

}  // namespace fastnn::system
