#include "cpu/curvature_embedding_kernels.h"

namespace prospr::cpu::PROSPR_ISA {
namespace {

template <typename T>
void add_words(const EmbeddingPlan<T>& plan, std::int64_t begin, std::int64_t end,
               core::Accumulator<T>* scratch) {
  const EmbeddingShape& shape = plan.shape;
  const std::int64_t outputs = shape.outputs;
  const std::int64_t column_stride = shape.samples * shape.positions * outputs;
  for (std::int64_t word = begin; word < end; ++word) {
    core::Accumulator<T>* const curvature = plan.curvature + word * outputs;
    const std::int64_t* const last = plan.places + plan.words[word + 1];
    const std::int64_t* place = plan.places + plan.words[word];
    while (place < last) {
      // The places of the word in one sample.
      const std::int64_t sample = *place / shape.positions;
      const std::int64_t* const first = place;
      while (place < last && *place / shape.positions == sample) ++place;
      for (std::int64_t c = 0; c < shape.columns; ++c) {
        const T* const factors = plan.factors + c * column_stride;
        for (std::int64_t o = 0; o < outputs; ++o) scratch[o] = 0;
        for (const std::int64_t* at = first; at < place; ++at) {
          const T* const factor = factors + *at * outputs;
          for (std::int64_t o = 0; o < outputs; ++o) scratch[o] += core::widen(factor[o]);
        }
        for (std::int64_t o = 0; o < outputs; ++o) curvature[o] += scratch[o] * scratch[o];
      }
    }
  }
}

}  // namespace
}  // namespace prospr::cpu::PROSPR_ISA

PROSPR_KERNELS(EmbeddingKernel<float>, add_words)
PROSPR_KERNELS(EmbeddingKernel<double>, add_words)
PROSPR_KERNELS(EmbeddingKernel<core::Half>, add_words)
PROSPR_KERNELS(EmbeddingKernel<core::BFloat16>, add_words)
