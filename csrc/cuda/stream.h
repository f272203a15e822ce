// CUDA's stream by a name that needs no CUDA header, nor TensorFlow's.
#pragma once

#include <cstddef>
#include <string>

struct CUstream_st;

namespace prospr::cuda {

using Stream = CUstream_st*;  // cudaStream_t

// Each family has three functions of the same arguments, structs of kernels/ that point to device
// memory: check_limits, what is too large for a GPU, or nothing; scratch_bytes, the device memory
// that run needs beside its arguments; and run(arguments..., scratch, stream), which enqueues its
// work on the stream and returns what went wrong with that, or nothing. `scratch` is as aligned as
// a device allocation is.

// Enqueues a copy within the device's memory. Returns what went wrong with that, or nothing.
std::string copy(void* to, const void* from, std::size_t bytes, Stream stream);

}  // namespace prospr::cuda
