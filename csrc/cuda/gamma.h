// The streaming prospect step of kernels/gamma.h on a GPU: the arguments point to device memory,
// and the results are those of the CPU, to the bit.
#pragma once

#include <cstdint>
#include <string>

#include "cuda/stream.h"
#include "kernels/gamma.h"

namespace prospr::cuda {

template <typename Arguments>
std::string check_limits(const Arguments&, std::int64_t) {
  return "";
}
template <typename Arguments>
std::int64_t scratch_bytes(const Arguments&, std::int64_t) {
  return 0;
}

// `finite` is written on the device.
template <typename T>
std::string run(const GammaUpdate<T>& update, std::int64_t size, void* no_scratch, Stream stream);

template <typename T>
std::string run(const GammaStep<T>& step, std::int64_t size, void* no_scratch, Stream stream);

template <typename T>
std::string run(const GammaMomentumStep<T>& step, std::int64_t size, void* no_scratch,
                Stream stream);

}  // namespace prospr::cuda
