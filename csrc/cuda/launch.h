// How a kernel is launched and checked. Included by .cu files only.
//
// Kernels use what a compiler for the host can follow too (no <<<>>>, no assembly), so that the
// tests run them there, with threads of the host in place of a block's.
#pragma once

#include <cuda_runtime.h>

#include <algorithm>
#include <cstdint>
#include <string>

namespace prospr::cuda {

// Enough blocks to fill the largest GPUs several times over; larger work is looped over. A constant
// and nothing asked of the device: cuts, and with them roundings, are the same on every GPU.
constexpr std::int64_t kMostBlocks = 4096;

inline std::int64_t ceil_divide(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }

// Blocks for a grid-stride loop over `items`, one item per thread.
inline unsigned blocks_for(std::int64_t items, int threads) {
  return static_cast<unsigned>(
      std::max<std::int64_t>(1, std::min(ceil_divide(items, threads), kMostBlocks)));
}

// "kernel: what went wrong", or nothing.
inline std::string checked(const char* kernel_name, cudaError_t error) {
  return error == cudaSuccess ? std::string()
                              : std::string(kernel_name) + ": " + cudaGetErrorString(error);
}

template <typename... Parameters, typename... Arguments>
std::string launch(const char* kernel_name, void (*kernel)(Parameters...), dim3 blocks, int threads,
                   cudaStream_t stream, const Arguments&... arguments) {
  cudaLaunchConfig_t config{};
  config.gridDim = blocks;
  config.blockDim = dim3(static_cast<unsigned>(threads));
  config.stream = stream;
  return checked(kernel_name, cudaLaunchKernelEx(&config, kernel, Parameters(arguments)...));
}

// This thread's number among all of the (one-dimensional) grid, and how many there are.
__device__ inline std::int64_t global_thread() {
  return static_cast<std::int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
}
__device__ inline std::int64_t global_threads() {
  return static_cast<std::int64_t>(gridDim.x) * blockDim.x;
}

}  // namespace prospr::cuda
