// How a kernel is spread over threads. The kernels own no threads: TensorFlow's pool, or the
// bindings' own, is passed in.
#pragma once

#include <cstdint>
#include <functional>

namespace prospr::cpu {

// Called once for each part of [0, n): work(begin, end).
using Work = std::function<void(std::int64_t begin, std::int64_t end)>;

// Splits [0, n) into parts and returns when work is done on all of them, in any order and on any
// threads. `nanoseconds` is the rough cost of one item. An exception in work is rethrown here, once
// every part has ended.
using ParallelFor = std::function<void(std::int64_t n, double nanoseconds, const Work& work)>;

}  // namespace prospr::cpu
