// The batch normalisation of kernels/normalisation.h on a GPU: the arguments point to device
// memory. Sums are in double, of x less a value near its mean, in an order that depends on the
// shape alone.
#pragma once

#include <cstdint>
#include <string>

#include "cuda/stream.h"
#include "kernels/normalisation.h"

namespace prospr::cuda {

template <typename Arguments>
std::string check_limits(const BatchShape&, const Arguments&) {
  return "";
}

template <typename T>
std::int64_t scratch_bytes(const BatchShape& shape, const BatchMoments<T>& moments);
template <typename T>
std::int64_t scratch_bytes(const BatchShape& shape, const BatchNorm<T>& norm);
template <typename T>
std::int64_t scratch_bytes(const BatchShape& shape, const BatchNormGradient<T>& gradient);
template <typename T>
std::int64_t scratch_bytes(const BatchShape& shape, const BatchNormSecondGradient<T>& gradient);

template <typename T>
std::string run(const BatchShape& shape, const BatchMoments<T>& moments, void* scratch,
                Stream stream);
template <typename T>
std::string run(const BatchShape& shape, const BatchNorm<T>& norm, void* scratch, Stream stream);
template <typename T>
std::string run(const BatchShape& shape, const BatchNormGradient<T>& gradient, void* scratch,
                Stream stream);
template <typename T>
std::string run(const BatchShape& shape, const BatchNormSecondGradient<T>& gradient, void* scratch,
                Stream stream);

}  // namespace prospr::cuda
