// The contractions of kernels/curvature.h on a GPU: the arguments point to device memory.
//
// Sums are kept in core::Accumulator<T>, with fused multiply-adds, and added up in an order that
// depends on shapes only: the same bits in every run, and on every GPU.
#pragma once

#include <cstdint>
#include <string>

#include "cuda/stream.h"
#include "kernels/curvature.h"

namespace prospr::cuda {

// Any number of elements will do, but a pixel's coordinate must fit 32 bits, and the numbers of a
// word, a sample and a position together 63.
std::string check_limits(const ConvShape& shape);
std::string check_limits(const EmbeddingShape& shape);
template <typename Arguments>
std::string check_limits(const Arguments& arguments) {
  return check_limits(arguments.shape);
}

template <typename T>
std::int64_t scratch_bytes(const ConvCurvature<T>& conv);
template <typename T, typename Index>
std::int64_t scratch_bytes(const EmbeddingCurvature<T, Index>& embedding);
template <typename T>
std::int64_t scratch_bytes(const ConvInputGradient<T>&) {
  return 0;
}

template <typename T>
std::string run(const ConvCurvature<T>& conv, void* scratch, Stream stream);

template <typename T>
std::string run(const ConvInputGradient<T>& conv, void* no_scratch, Stream stream);

// Places whose index is not in [0, vocabulary) count for nothing: to refuse them would take waiting
// for the device.
template <typename T, typename Index>
std::string run(const EmbeddingCurvature<T, Index>& embedding, void* scratch, Stream stream);

}  // namespace prospr::cuda
