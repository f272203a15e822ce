// The contractions of cpu/curvature.h on a GPU: the same arguments, on device memory.
//
// Sums are kept in core::Accumulator<T>, with fused multiply-adds, and added up in an order that
// depends on shapes only: the same bits in every run, and on every GPU.
#pragma once

#include <cstdint>
#include <string>

#include "cpu/curvature.h"
#include "cuda/stream.h"

namespace prospr::cuda {

using cpu::ConvCurvature;
using cpu::ConvInputGradient;
using cpu::ConvShape;
using cpu::EmbeddingCurvature;
using cpu::EmbeddingShape;

// Returns what is too large for these kernels, or nothing. Any number of elements will do, but a
// pixel's coordinate must fit 32 bits, and a word's number times a place's 63.
std::string check_limits(const ConvShape& shape);
std::string check_limits(const EmbeddingShape& shape);

// Bytes of device memory that `run` needs beside its arguments.
template <typename T>
std::int64_t scratch_bytes(const ConvCurvature<T>& conv);
std::int64_t scratch_bytes(const EmbeddingShape& shape);

// Each only enqueues its work on `stream`. `scratch` is as aligned as a device allocation is.
// Returns what went wrong with that, or nothing.
template <typename T>
std::string run(const ConvCurvature<T>& conv, void* scratch, Stream stream);

template <typename T>
std::string run(const ConvInputGradient<T>& conv, Stream stream);

// Places whose index is not in [0, vocabulary) count for nothing: to refuse them would take waiting
// for the device.
template <typename T, typename Index>
std::string run(const EmbeddingCurvature<T, Index>& embedding, void* scratch, Stream stream);

}  // namespace prospr::cuda
