// What programs beside the kernels need of a device, on a card; tests/cuda/emulation/runtime.h is
// the same in the emulation. The tests write `emulation::backwards`; here blocks run in the card's
// order, so what they run in both orders is run twice and compared to the bit.
//
// Arrays of the tests are managed memory. They need CUDA_LAUNCH_BLOCKING=1, as they read results
// without waiting.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>
#include <cstdio>
#include <cstdlib>
#include <string>

namespace emulation {
inline bool backwards = false;
}

namespace prospr::tests {

inline std::string message(cudaError_t error) {
  return error == cudaSuccess ? "" : cudaGetErrorString(error);
}

// Memory that both the host and the device read and write, an allocation for each array, so that
// compute-sanitizer watches its end.
template <typename T>
class Allocator {
 public:
  using value_type = T;

  Allocator() = default;
  template <typename Other>
  Allocator(const Allocator<Other>&) {}

  T* allocate(std::size_t size) {
    void* memory = nullptr;
    expect_success(cudaMallocManaged(&memory, size * sizeof(T)));
    return static_cast<T*>(memory);
  }
  void deallocate(T* memory, std::size_t) { expect_success(cudaFree(memory)); }

  bool operator==(const Allocator&) const { return true; }
  bool operator!=(const Allocator&) const { return false; }

 private:
  // After an error of a kernel nothing on the card works any more.
  static void expect_success(cudaError_t error) {
    if (error == cudaSuccess) return;
    std::fprintf(stderr, "FAILED: %s\n", cudaGetErrorString(error));
    std::_Exit(3);
  }
};

// Each returns what went wrong, or nothing.
inline std::string allocate(void** memory, std::size_t bytes) {
  const cudaError_t error = cudaMalloc(memory, bytes);
  if (error != cudaSuccess) cudaGetLastError();  // a later launch is not to blame
  return message(error);
}
inline std::string release(void* memory) { return message(cudaFree(memory)); }
// Either way between host and device; waits.
inline std::string transfer(void* to, const void* from, std::size_t bytes) {
  return message(cudaMemcpy(to, from, bytes, cudaMemcpyDefault));
}
inline std::string synchronise() { return message(cudaDeviceSynchronize()); }

inline std::size_t free_bytes() {
  std::size_t free = 0;
  std::size_t total = 0;
  cudaMemGetInfo(&free, &total);
  return free;
}

// Between two points of the default stream.
class Stopwatch {
 public:
  Stopwatch() {
    cudaEventCreate(&from_);
    cudaEventCreate(&to_);
  }
  Stopwatch(const Stopwatch&) = delete;
  Stopwatch& operator=(const Stopwatch&) = delete;

  void start() { cudaEventRecord(from_); }
  float milliseconds() {
    float result = 0;
    cudaEventRecord(to_);
    cudaEventSynchronize(to_);
    cudaEventElapsedTime(&result, from_, to_);
    return result;
  }

 private:
  cudaEvent_t from_;
  cudaEvent_t to_;
};

}  // namespace prospr::tests
