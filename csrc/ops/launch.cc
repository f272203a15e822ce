#include "ops/launch.h"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <exception>
#include <memory>
#include <mutex>

#include "tensorflow/core/platform/blocking_counter.h"
#include "tensorflow/core/platform/threadpool.h"
#if defined(PROSPR_CUDA)
#include "xla/stream_executor/stream.h"
#endif

namespace prospr::ops {
namespace {

// Long enough that claiming a block costs nothing beside it, short enough that all threads finish
// together.
constexpr double kBlockNanoseconds = 1e4;

// Items [0, n) in blocks that threads claim one after the other. It outlives the run, for a thread
// that wakes up only when nothing is left; such a thread must not touch `work`.
struct Run {
  Run(std::int64_t n, std::int64_t block, const cpu::Work& work)
      : n(n), block(block), work(work), unfinished(static_cast<int>((n + block - 1) / block)) {}

  void claim_blocks() {
    for (;;) {
      const std::int64_t begin = next.fetch_add(block, std::memory_order_relaxed);
      if (begin >= n) return;
      try {
        work(begin, std::min(begin + block, n));
      } catch (...) {
        std::call_once(failed, [this] { error = std::current_exception(); });
      }
      unfinished.DecrementCount();
    }
  }

  const std::int64_t n;
  const std::int64_t block;
  const cpu::Work& work;
  std::atomic<std::int64_t> next{0};
  tensorflow::BlockingCounter unfinished;
  std::once_flag failed;
  std::exception_ptr error;
};

}  // namespace

absl::Status CPU::copy(OpKernelContext*, void* to, const void* from, std::size_t bytes) {
  std::memcpy(to, from, bytes);
  return absl::OkStatus();
}

#if defined(PROSPR_CUDA)
absl::Status GPU::copy(OpKernelContext* context, void* to, const void* from, std::size_t bytes) {
  return launch_status(cuda::copy(to, from, bytes, stream_of(context)));
}

cuda::Stream stream_of(OpKernelContext* context) {
  return static_cast<cuda::Stream>(
      context->op_device_context()->stream()->platform_specific_handle().stream);
}

absl::Status launch_status(const std::string& failure) {
  return failure.empty() ? absl::OkStatus() : absl::InternalError(failure);
}
#endif

// The pool's own parallel-for waits for its threads to wake up, which takes longer than a small op.
// Here the calling thread starts at once, and the others help as soon as they are there.
cpu::ParallelFor parallel_for(OpKernelContext* context) {
  auto* const pool = context->device()->tensorflow_cpu_worker_threads()->workers;
  return [pool](std::int64_t n, double nanoseconds, const cpu::Work& work) {
    const std::int64_t threads = pool->NumThreads();
    const std::int64_t share = (n + 8 * threads - 1) / (8 * threads);
    const auto smallest = static_cast<std::int64_t>(kBlockNanoseconds / nanoseconds);
    const std::int64_t block = std::max<std::int64_t>({1, share, smallest});
    if (threads == 1 || block >= n) {
      work(0, n);
      return;
    }
    const auto run = std::make_shared<Run>(n, block, work);
    const std::int64_t helpers = std::min(threads, (n + block - 1) / block) - 1;
    for (std::int64_t i = 0; i < helpers; ++i) pool->Schedule([run] { run->claim_blocks(); });
    run->claim_blocks();
    run->unfinished.Wait();
    if (run->error) std::rethrow_exception(run->error);
  };
}

}  // namespace prospr::ops
