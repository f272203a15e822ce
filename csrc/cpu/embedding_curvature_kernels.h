// The single-threaded loop of EmbeddingCurvature. embedding_curvature_kernels.cc is compiled once
// for each instruction set, into the namespace of that name.
#pragma once

#include <cstdint>

#include "cpu/curvature.h"

namespace prospr::cpu {

template <typename T>
struct EmbeddingPlan {
  EmbeddingShape shape;
  const T* factors;
  core::Accumulator<T>* curvature;
  const std::int64_t* places;  // sample * positions + position, by word, then in order
  const std::int64_t* words;   // [vocabulary + 1], where each word's places begin
};

// Adds the words [begin, end). `scratch` has a row of outputs.
template <typename T>
using EmbeddingKernel = void (*)(const EmbeddingPlan<T>& plan, std::int64_t begin, std::int64_t end,
                                 core::Accumulator<T>* scratch);

namespace baseline {
template <typename T>
EmbeddingKernel<T> embedding_kernel();
}
#if defined(PROSPR_X86_64)
namespace avx2 {
template <typename T>
EmbeddingKernel<T> embedding_kernel();
}
namespace avx512 {
template <typename T>
EmbeddingKernel<T> embedding_kernel();
}
#else
namespace avx2 = baseline;
namespace avx512 = baseline;
#endif

}  // namespace prospr::cpu
