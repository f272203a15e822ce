// Stands in for the CUDA runtime on a machine without a GPU, so that csrc/cuda/*.cu compile as C++
// and run under the sanitizers of the host.
//
// Each thread of a block is a thread of the host and __syncthreads is a barrier among them, so
// ThreadSanitizer sees a missing one. The blocks of a grid run one after the other, forwards or
// backwards: a result that depends on the order of the blocks differs between the two. Device
// memory is the host's heap, so AddressSanitizer sees an access out of bounds. Only what our
// kernels use is here; a warp has no meaning.
#pragma once

#include <pthread.h>

#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

#define __global__
#define __device__
#define __shared__ static
#define __launch_bounds__(...)

struct dim3 {
  unsigned x, y, z;
  dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};

struct CUstream_st;
using cudaStream_t = CUstream_st*;

enum cudaError_t { cudaSuccess, cudaErrorInvalidValue };
enum cudaMemcpyKind { cudaMemcpyDeviceToDevice, cudaMemcpyDeviceToHost, cudaMemcpyHostToDevice };

inline const char* cudaGetErrorString(cudaError_t) { return "invalid argument"; }

struct cudaLaunchConfig_t {
  dim3 gridDim;
  dim3 blockDim;
  std::size_t dynamicSmemBytes;
  cudaStream_t stream;
};

namespace emulation {

// One block's barrier, with a vote.
class Barrier {
 public:
  explicit Barrier(unsigned threads) { pthread_barrier_init(&barrier_, nullptr, threads); }
  ~Barrier() { pthread_barrier_destroy(&barrier_); }
  Barrier(const Barrier&) = delete;
  Barrier& operator=(const Barrier&) = delete;

  void wait() { pthread_barrier_wait(&barrier_); }

  bool any(bool mine) {
    if (mine) __atomic_store_n(&vote_, true, __ATOMIC_RELAXED);
    wait();
    const bool result = __atomic_load_n(&vote_, __ATOMIC_RELAXED);
    wait();
    __atomic_store_n(&vote_, false, __ATOMIC_RELAXED);
    wait();
    return result;
  }

 private:
  pthread_barrier_t barrier_;
  bool vote_ = false;
};

// Threads that are kept from one launch to the next: a sanitizer makes new ones slow.
class Pool {
 public:
  ~Pool() {
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      stopped_ = true;
    }
    changed_.notify_all();
    for (std::thread& thread : threads_) thread.join();
  }

  // work(0), ..., work(threads - 1), all at the same time.
  void run(unsigned threads, const std::function<void(unsigned)>& work) {
    std::unique_lock<std::mutex> lock(mutex_);
    work_ = &work;
    wanted_ = unfinished_ = threads;
    ++launch_;
    while (threads_.size() < threads) {
      threads_.emplace_back(&Pool::serve, this, static_cast<unsigned>(threads_.size()));
    }
    changed_.notify_all();
    finished_.wait(lock, [this] { return unfinished_ == 0; });
  }

 private:
  void serve(unsigned thread) {
    std::uint64_t served = 0;
    std::unique_lock<std::mutex> lock(mutex_);
    for (;;) {
      changed_.wait(lock, [&] { return stopped_ || (served != launch_ && thread < wanted_); });
      if (stopped_) return;
      served = launch_;
      lock.unlock();
      (*work_)(thread);
      lock.lock();
      if (--unfinished_ == 0) finished_.notify_one();
    }
  }

  std::mutex mutex_;
  std::condition_variable changed_;
  std::condition_variable finished_;
  std::vector<std::thread> threads_;
  const std::function<void(unsigned)>* work_ = nullptr;
  unsigned wanted_ = 0;
  unsigned unfinished_ = 0;
  std::uint64_t launch_ = 0;
  bool stopped_ = false;
};

inline Pool pool;
inline bool backwards = false;
inline thread_local Barrier* barrier = nullptr;

// The limits of every GPU since compute capability 3.0.
inline bool fits(const cudaLaunchConfig_t& config) {
  constexpr unsigned kMostThreads = 1024;
  constexpr unsigned kMostBlocksX = 0x7FFFFFFF;
  constexpr unsigned kMostBlocksYZ = 0xFFFF;
  const dim3& grid = config.gridDim;
  const dim3& block = config.blockDim;
  const std::uint64_t threads = std::uint64_t{block.x} * block.y * block.z;
  return threads >= 1 && threads <= kMostThreads && grid.x >= 1 && grid.x <= kMostBlocksX &&
         grid.y >= 1 && grid.y <= kMostBlocksYZ && grid.z >= 1 && grid.z <= kMostBlocksYZ;
}

}  // namespace emulation

inline thread_local dim3 threadIdx;
inline thread_local dim3 blockIdx;
inline thread_local dim3 blockDim;
inline thread_local dim3 gridDim;

inline void __syncthreads() { emulation::barrier->wait(); }
inline int __syncthreads_or(int mine) { return emulation::barrier->any(mine != 0); }
// Blocks run one after the other, and a barrier lies between them.
inline void __threadfence() {}

template <typename T>
T atomicAdd(T* to, T value) {
  return __atomic_fetch_add(to, value, __ATOMIC_RELAXED);
}

template <typename T>
T atomicExch(T* to, T value) {
  return __atomic_exchange_n(to, value, __ATOMIC_RELAXED);
}

template <typename T>
T atomicMin(T* to, T value) {
  T was = __atomic_load_n(to, __ATOMIC_RELAXED);
  while (value < was &&
         !__atomic_compare_exchange_n(to, &was, value, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {
  }
  return was;
}

template <typename... Parameters, typename... Arguments>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t* config, void (*kernel)(Parameters...),
                               Arguments&&... arguments) {
  if (!emulation::fits(*config)) return cudaErrorInvalidValue;
  const dim3 grid = config->gridDim;
  const std::uint64_t blocks = std::uint64_t{grid.x} * grid.y * grid.z;
  const dim3 block = config->blockDim;
  const unsigned threads = block.x * block.y * block.z;
  emulation::Barrier barrier(threads);
  emulation::pool.run(threads, [&](unsigned thread) {
    emulation::barrier = &barrier;
    gridDim = grid;
    blockDim = block;
    threadIdx = dim3(thread % block.x, thread / block.x % block.y, thread / block.x / block.y);
    for (std::uint64_t i = 0; i < blocks; ++i) {
      const std::uint64_t b = emulation::backwards ? blocks - 1 - i : i;
      blockIdx = dim3(static_cast<unsigned>(b % grid.x), static_cast<unsigned>(b / grid.x % grid.y),
                      static_cast<unsigned>(b / grid.x / grid.y));
      kernel(static_cast<Parameters>(arguments)...);
      barrier.wait();
    }
  });
  return cudaSuccess;
}

inline cudaError_t cudaMemsetAsync(void* to, int value, std::size_t bytes, cudaStream_t) {
  std::memset(to, value, bytes);
  return cudaSuccess;
}

inline cudaError_t cudaStreamSynchronize(cudaStream_t) { return cudaSuccess; }

inline cudaError_t cudaMemcpyAsync(void* to, const void* from, std::size_t bytes, cudaMemcpyKind,
                                   cudaStream_t) {
  std::memcpy(to, from, bytes);
  return cudaSuccess;
}
