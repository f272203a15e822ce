// What programs beside the kernels need of a device, in the emulation: its memory is the heap, and
// a launch has ended when it returns. tests/cuda/device/runtime.h is the same on a card.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <string>

#include "cuda_runtime.h"

namespace prospr::tests {

// Memory that both the host and the device read and write.
template <typename T>
using Allocator = std::allocator<T>;

// Each returns what went wrong, or nothing.
inline std::string allocate(void** memory, std::size_t bytes) {
  *memory = std::malloc(bytes);
  return *memory == nullptr ? "out of memory" : "";
}
inline std::string release(void* memory) {
  std::free(memory);
  return "";
}
// Either way between host and device; waits.
inline std::string transfer(void* to, const void* from, std::size_t bytes) {
  std::memcpy(to, from, bytes);
  return "";
}
inline std::string synchronise() { return ""; }

inline std::size_t free_bytes() { return std::size_t{1} << 28; }

class Stopwatch {
 public:
  void start() { started_ = std::chrono::steady_clock::now(); }
  float milliseconds() {
    return std::chrono::duration<float, std::milli>(std::chrono::steady_clock::now() - started_)
        .count();
  }

 private:
  std::chrono::steady_clock::time_point started_;
};

}  // namespace prospr::tests
