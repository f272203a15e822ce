// The streaming prospect step on a GPU: the arguments and the results, to the bit, of cpu/gamma.h,
// on device memory.
#pragma once

#include <cstdint>
#include <string>

#include "cpu/gamma.h"
#include "cuda/stream.h"

namespace prospr::cuda {

using cpu::GammaMomentumStep;
using cpu::GammaStep;
using cpu::GammaUpdate;

// Each only enqueues its work on `stream`. Returns what went wrong with that, or nothing.
template <typename T>
std::string run(const GammaUpdate<T>& update, std::int64_t size, Stream stream);

// `finite`, on the device, becomes whether every element of gradient and of
// learning_rate * curvature was finite.
template <typename T>
std::string run(const GammaStep<T>& step, std::int64_t size, bool* finite, Stream stream);

template <typename T>
std::string run(const GammaMomentumStep<T>& step, std::int64_t size, bool* finite, Stream stream);

}  // namespace prospr::cuda
