// The single-threaded loop of EmbeddingCurvature. curvature_embedding_kernels.cc is compiled once
// per instruction set.
#pragma once

#include <cstdint>

#include "cpu/curvature.h"
#include "cpu/dispatch.h"

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

}  // namespace prospr::cpu
