// ConvCurvature where every channel is a group of its own.
#pragma once

#include <cstdint>
#include <string>

#include "cuda/curvature.h"

namespace prospr::cuda {

template <typename T>
std::int64_t depthwise_scratch_bytes(const ConvShape& shape);

template <typename T>
std::string run_depthwise(const ConvCurvature<T>& conv, void* scratch, Stream stream);

}  // namespace prospr::cuda
