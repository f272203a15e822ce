// CUDA's stream by a name that needs no CUDA header, nor TensorFlow's.
#pragma once

#include <cstddef>
#include <string>

struct CUstream_st;

namespace prospr::cuda {

using Stream = CUstream_st*;  // cudaStream_t

// Enqueues a copy within the device's memory. Returns what went wrong with that, or nothing.
std::string copy(void* to, const void* from, std::size_t bytes, Stream stream);

}  // namespace prospr::cuda
