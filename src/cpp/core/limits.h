#pragma once
// How many threads a call may use: whoever sets a limit is obeyed, and the smallest limit wins.
#include <string>

#include "core/system.h"

namespace fastnn {

constexpr int kMaxThreads = 1024;  // the largest number that may be asked for

int thread_limit() noexcept;               // of a call of this thread: the smallest of all
void set_thread_limit(int n) noexcept;     // of the process
int thread_override() noexcept;            // of the calling thread; 0 where none is set
void set_thread_override(int n) noexcept;  // 0 clears it

// Each limit by itself; kMaxThreads where there is none.
struct Limits {
  int own, process;  // what set_thread_override and set_thread_limit have said
  int openmp;  // what OMP_NUM_THREADS, OMP_THREAD_LIMIT or omp_set_num_threads (as threadpoolctl calls it) have said, for this
               // thread, to the OpenMP runtimes of this process
  int processors;  // that this thread may run on
  int quota;       // of processor time, by control groups
};
Limits thread_limits() noexcept;

// Takes the limits of the calling thread alone (own, process) for all that there are: teams may be larger than the machine.
void ignore_machine_limits(bool ignore) noexcept;

// The processors that members of this thread's teams may run on: its own, or the places of OpenMP where that binds threads. None
// where the system does not tell.
const system::ProcessorSet& allowed_processors() noexcept;

// Whether more threads want to run than the machine has processors, where it tells; it takes some microseconds.
bool is_crowded() noexcept;

// Processors' worth of time that the control groups of this process allow, versions 1 and 2, rounded up; kMaxThreads where there
// is no quota. `root` stands before every path.
int cgroup_quota(const std::string& root);

}  // namespace fastnn
