#include "cpu/gamma.h"

#include <atomic>

#include "cpu/gamma_kernels.h"

namespace prospr::cpu {
namespace {

// One float32 weight moves 24 bytes, at about 15 GB/s a core.
constexpr double kNanosecondsPerWeight = 1.6;

template <typename T>
GammaKernels<T> kernels_for(InstructionSet instruction_set) {
  return choose(instruction_set, baseline::gamma_kernels<T>, avx2::gamma_kernels<T>,
                avx512::gamma_kernels<T>)();
}

template <typename Arguments>
bool run_all(const Arguments& arguments,
             bool (*kernel)(const Arguments&, std::int64_t, std::int64_t), std::int64_t size,
             const ParallelFor& parallel_for) {
  std::atomic<bool> finite{true};
  parallel_for(size, kNanosecondsPerWeight, [&](std::int64_t begin, std::int64_t end) {
    if (!kernel(arguments, begin, end)) finite.store(false, std::memory_order_relaxed);
  });
  return finite;
}

}  // namespace

template <typename T>
void run(const GammaUpdate<T>& update, std::int64_t size, InstructionSet instruction_set,
         const ParallelFor& parallel_for) {
  const auto kernel = kernels_for<T>(instruction_set).update;
  parallel_for(size, kNanosecondsPerWeight,
               [&](std::int64_t begin, std::int64_t end) { kernel(update, begin, end); });
}

template <typename T>
bool run(const GammaStep<T>& step, std::int64_t size, InstructionSet instruction_set,
         const ParallelFor& parallel_for) {
  return run_all(step, kernels_for<T>(instruction_set).step, size, parallel_for);
}

template <typename T>
bool run(const GammaMomentumStep<T>& step, std::int64_t size, InstructionSet instruction_set,
         const ParallelFor& parallel_for) {
  return run_all(step, kernels_for<T>(instruction_set).momentum_step, size, parallel_for);
}

template void run(const GammaUpdate<float>&, std::int64_t, InstructionSet, const ParallelFor&);
template void run(const GammaUpdate<double>&, std::int64_t, InstructionSet, const ParallelFor&);
template bool run(const GammaStep<float>&, std::int64_t, InstructionSet, const ParallelFor&);
template bool run(const GammaStep<double>&, std::int64_t, InstructionSet, const ParallelFor&);
template bool run(const GammaMomentumStep<float>&, std::int64_t, InstructionSet,
                  const ParallelFor&);
template bool run(const GammaMomentumStep<double>&, std::int64_t, InstructionSet,
                  const ParallelFor&);

}  // namespace prospr::cpu
