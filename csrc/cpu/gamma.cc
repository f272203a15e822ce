#include "cpu/gamma.h"

#include <atomic>

#include "cpu/gamma_kernels.h"

namespace prospr::cpu {
namespace {

// One float32 weight moves 24 bytes, at about 15 GB/s per core.
constexpr double kNanosecondsPerWeight = 1.6;

template <typename Step>
void run_step(const Step& step, bool (*kernel)(const Step&, std::int64_t, std::int64_t),
              std::int64_t size, const ParallelFor& parallel_for) {
  std::atomic<bool> finite{true};
  parallel_for(size, kNanosecondsPerWeight, [&](std::int64_t begin, std::int64_t end) {
    if (!kernel(step, begin, end)) finite.store(false, std::memory_order_relaxed);
  });
  *step.finite = finite;
}

}  // namespace

template <typename T>
void run(const GammaUpdate<T>& update, std::int64_t size, InstructionSet instruction_set,
         const ParallelFor& parallel_for) {
  const auto kernel = dispatch<GammaKernels<T>>(instruction_set).update;
  parallel_for(size, kNanosecondsPerWeight,
               [&](std::int64_t begin, std::int64_t end) { kernel(update, begin, end); });
}

template <typename T>
void run(const GammaStep<T>& step, std::int64_t size, InstructionSet instruction_set,
         const ParallelFor& parallel_for) {
  run_step(step, dispatch<GammaKernels<T>>(instruction_set).step, size, parallel_for);
}

template <typename T>
void run(const GammaMomentumStep<T>& step, std::int64_t size, InstructionSet instruction_set,
         const ParallelFor& parallel_for) {
  run_step(step, dispatch<GammaKernels<T>>(instruction_set).momentum_step, size, parallel_for);
}

#define INSTANTIATE(T)                                                                        \
  template void run(const GammaUpdate<T>&, std::int64_t, InstructionSet, const ParallelFor&); \
  template void run(const GammaStep<T>&, std::int64_t, InstructionSet, const ParallelFor&);   \
  template void run(const GammaMomentumStep<T>&, std::int64_t, InstructionSet, const ParallelFor&)
INSTANTIATE(float);
INSTANTIATE(double);
#undef INSTANTIATE

}  // namespace prospr::cpu
