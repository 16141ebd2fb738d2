#pragma once
// The OpenMP runtimes that are in this process, whoever has loaded them: what is said to one of them holds for fastnn, too. None
// is needed.
#include <string>
#include <vector>

#include "core/system.h"

namespace fastnn::openmp {

// The fewest threads that one of them allows this thread; where there is none, what OMP_NUM_THREADS and OMP_THREAD_LIMIT say; or
// kMaxThreads.
int limit() noexcept;

// The processors of all places that one of them binds threads to; false where none does. (The thread that has loaded it then runs
// on the first place alone, and what it starts would, too.)
bool places(system::ProcessorSet& set) noexcept;

// The names of their files.
std::vector<std::string> names();

}  // namespace fastnn::openmp
