#include "bindings/network/crowd.h"

#include <algorithm>
#include <utility>

#include "core/limits.h"
#include "core/team.h"

namespace fastnn::bindings {
namespace {

template <class Queue>
auto take(Queue& from) {
  auto first = std::move(from.front());
  from.pop_front();
  return first;
}

}  // namespace

Crowd::Crowd(int members) : forks_(fork_generation()), table_(std::make_unique<Table>()) {
  const int helpers = std::min(members, thread_limit()) - 1;
  table_->helpers.emplace(helpers, [&table = *table_] { help(table); });
}

void Crowd::help(Table& table) noexcept {
  std::unique_lock<std::mutex> lock(table.mutex);
  for (;;) {
    table.waits.wait(lock, [&] { return table.closed || !table.waiting.empty(); });
    if (table.closed) return;
    std::unique_ptr<Slice> slice = take(table.waiting);
    ++table.running;
    lock.unlock();
    slice->job->run();
    lock.lock();
    --table.running;
    table.done.push_back(std::move(slice));
    table.ends.notify_one();
  }
}

void Crowd::check() const {
  if (!table_ || forks_ != fork_generation())
    throw std::runtime_error("a training of many networks goes on in the process that has begun it only");
}

void Crowd::begin(py::object member, py::object network, py::tuple arguments) {
  check();
  auto slice = std::make_unique<Slice>();
  slice->member = std::move(member);
  slice->network = std::move(network);
  slice->arguments = std::move(arguments);
  bool ready = false;
  try {
    slice->request = CompiledNetwork::Request::of(slice->arguments);
    slice->job.emplace(slice->network.cast<CompiledNetwork&>(), slice->request);
    slice->job->prepare(true);
    ready = !slice->job->runs_python();
    if (!ready) slice->job->run();
  } catch (const Unsupported&) {
    slice->job.reset();
  } catch (...) {
    slice->job.reset();
    slice->result = current_exception();
  }
  const std::lock_guard<std::mutex> lock(table_->mutex);
  (ready ? table_->waiting : table_->done).push_back(std::move(slice));
  if (ready) table_->waits.notify_one();
}

std::unique_ptr<Crowd::Slice> Crowd::wait(Table& table) {
  std::unique_lock<std::mutex> lock(table.mutex);
  if (table.done.empty() && !table.waiting.empty()) {
    std::unique_ptr<Slice> slice = take(table.waiting);
    lock.unlock();
    slice->job->run();
    return slice;
  }
  table.ends.wait(lock, [&] { return !table.done.empty() || table.running == 0; });
  return table.done.empty() ? nullptr : take(table.done);
}

void Crowd::finish(Slice& slice) {
  if (!slice.job) return;
  try {
    slice.result = slice.job->finish();
  } catch (const Unsupported&) {
  } catch (...) {
    slice.result = current_exception();
  }
  slice.job.reset();
}

py::object Crowd::next() {
  check();
  std::unique_ptr<Slice> slice;
  {
    const WithoutGil released;
    slice = wait(*table_);
  }
  if (!slice) return py::none();
  finish(*slice);
  return py::make_tuple(slice->member, slice->result);
}

void Crowd::close() {
  if (!table_) return;
  if (forks_ != fork_generation()) {
    static_cast<void>(table_.release());
    return;
  }
  {
    const WithoutGil released;
    {
      const std::lock_guard<std::mutex> lock(table_->mutex);
      table_->closed = true;
    }
    table_->waits.notify_all();
    table_->helpers->join();
  }
  for (const std::unique_ptr<Slice>& slice : table_->done) finish(*slice);
  table_.reset();
}

}  // namespace fastnn::bindings
