#include "ops/parallel_for.h"

#include <algorithm>

#include "tensorflow/core/util/work_sharder.h"

namespace prospr::ops {

cpu::ParallelFor parallel_for(tensorflow::OpKernelContext* context) {
  const auto* threads = context->device()->tensorflow_cpu_worker_threads();
  return [threads](std::int64_t n, double nanoseconds, const cpu::Work& work) {
    // The sharder counts whole nanoseconds, and makes a shard of at least 10,000 of them.
    const auto cost = std::max<std::int64_t>(1, static_cast<std::int64_t>(nanoseconds));
    tensorflow::Shard(threads->num_threads, threads->workers, n, cost, work);
  };
}

}  // namespace prospr::ops
