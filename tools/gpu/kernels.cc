// The kernels of both devices as C functions, for kernels.py.
//
// `type` is 0 for float, 1 for double, 2 for half, 3 for bfloat16. Each function that may fail
// returns what went wrong, or "". A kernel is run `times` times, and nothing waits for it.
#include <algorithm>
#include <cstdint>
#include <cstring>
#include <string>
#include <thread>
#include <vector>

#include "cpu/curvature.h"
#include "cpu/gamma.h"
#include "cpu/normalisation.h"
#include "cpu/pooling.h"
#include "cpu/select.h"
#include "cuda/curvature.h"
#include "cuda/gamma.h"
#include "cuda/launch.h"
#include "cuda/normalisation.h"
#include "cuda/pooling.h"
#include "cuda/select.h"
#include "runtime.h"

namespace prospr::tests {
namespace {

constexpr auto kBaseline = cpu::InstructionSet::kBaseline;
constexpr int kThreads = 256;

const cpu::ParallelFor kAllThreads = [](std::int64_t n, double, const cpu::Work& work) {
  const std::int64_t most = std::max(1u, std::thread::hardware_concurrency());
  const std::int64_t count = std::min(n, most);
  std::vector<std::thread> threads;
  for (std::int64_t i = 0; i < count; ++i) {
    threads.emplace_back([&work, n, count, i] { work(n * i / count, n * (i + 1) / count); });
  }
  for (std::thread& thread : threads) thread.join();
};

const char* report(std::string wrong) {
  static std::string last;
  last = std::move(wrong);
  return last.c_str();
}

template <typename Work>
std::string repeat(int times, Work&& work) {
  std::string wrong;
  for (int i = 0; i < times && wrong.empty(); ++i) wrong = work();
  return wrong;
}

// Device memory for the kernel that runs, kept for the next: an allocation would wait.
std::string scratch(std::int64_t bytes, void** memory) {
  static void* kept = nullptr;
  static std::int64_t size = 0;
  std::string wrong;
  if (bytes > size) {
    if (kept != nullptr) wrong = release(kept);
    kept = nullptr;
    size = 0;
    if (wrong.empty()) wrong = allocate(&kept, static_cast<std::size_t>(bytes));
    if (wrong.empty()) size = bytes;
  }
  *memory = kept;
  return wrong;
}

template <typename Function>
std::string with_real(int type, Function&& function) {
  if (type == 0) return function(float{});
  if (type == 1) return function(double{});
  return "no kernel for this type";
}

template <typename Function>
std::string with_any(int type, Function&& function) {
  if (type == 2) return function(core::Half{});
  if (type == 3) return function(core::BFloat16{});
  return with_real(type, function);
}

template <typename Arguments>
std::string run_gamma(const Arguments& arguments, std::int64_t size, bool on_gpu, int times) {
  return repeat(times, [&]() -> std::string {
    if (on_gpu) return cuda::run(arguments, size, nullptr, nullptr);
    cpu::run(arguments, size, kBaseline, kAllThreads);
    return "";
  });
}

// A family whose argument struct comes after a shape.
template <typename Shape, typename Arguments>
std::string run_shaped(const Shape& shape, const Arguments& arguments, bool on_gpu, int times) {
  void* memory = nullptr;
  if (on_gpu) {
    const std::string wrong = scratch(cuda::scratch_bytes(shape, arguments), &memory);
    if (!wrong.empty()) return wrong;
  }
  return repeat(times, [&]() -> std::string {
    if (on_gpu) return cuda::run(shape, arguments, memory, nullptr);
    cpu::run(shape, arguments, kBaseline, kAllThreads);
    return "";
  });
}

// A family of kernels/curvature.h.
template <typename Arguments>
std::string run_curvature(const Arguments& arguments, bool on_gpu, int times) {
  void* memory = nullptr;
  if (on_gpu) {
    std::string wrong = cuda::check_limits(arguments);
    if (wrong.empty()) wrong = scratch(cuda::scratch_bytes(arguments), &memory);
    if (!wrong.empty()) return wrong;
  }
  return repeat(times, [&]() -> std::string {
    if (on_gpu) return cuda::run(arguments, memory, nullptr);
    if constexpr (std::is_void_v<decltype(cpu::run(arguments, kBaseline, kAllThreads))>) {
      cpu::run(arguments, kBaseline, kAllThreads);
      return "";
    } else {
      return cpu::run(arguments, kBaseline, kAllThreads);
    }
  });
}

ConvShape conv_shape(const std::int64_t* numbers) {
  static_assert(sizeof(ConvShape) == (5 + 6 * ConvShape::kAxes) * sizeof(std::int64_t));
  ConvShape shape;
  std::memcpy(&shape, numbers, sizeof(shape));
  return shape;
}

// Counts the bytes that differ from those of a pattern that is repeated.
__global__ void __launch_bounds__(kThreads)
    compare_with_pattern(const std::uint8_t* values, const std::uint8_t* pattern,
                         std::int64_t period, std::int64_t bytes, unsigned long long* count) {
  unsigned long long own = 0;
  const std::int64_t step = cuda::global_threads();
  const std::int64_t phase_step = step % period;
  std::int64_t phase = cuda::global_thread() % period;
  for (std::int64_t i = cuda::global_thread(); i < bytes; i += step) {
    own += values[i] != pattern[phase];
    phase += phase_step;
    if (phase >= period) phase -= period;
  }
  if (own != 0) atomicAdd(count, own);
}

Stopwatch* stopwatch() {
  static Stopwatch watch;
  return &watch;
}

}  // namespace
}  // namespace prospr::tests

extern "C" {

using namespace prospr;
using namespace prospr::tests;

const char* gpu_allocate(void** memory, std::int64_t bytes) {
  return report(allocate(memory, static_cast<std::size_t>(bytes)));
}
const char* gpu_release(void* memory) { return report(release(memory)); }
const char* gpu_transfer(void* to, const void* from, std::int64_t bytes) {
  return report(transfer(to, from, static_cast<std::size_t>(bytes)));
}
const char* gpu_copy(int times, void* to, const void* from, std::int64_t bytes) {
  return report(repeat(
      times, [&] { return cuda::copy(to, from, static_cast<std::size_t>(bytes), nullptr); }));
}
const char* gpu_synchronise() { return report(synchronise()); }
std::int64_t gpu_free_bytes() { return static_cast<std::int64_t>(free_bytes()); }
void gpu_start() { stopwatch()->start(); }
float gpu_milliseconds() { return stopwatch()->milliseconds(); }

// Repeats the first `period` bytes of `memory` until its end.
const char* gpu_repeat_pattern(char* memory, std::int64_t period, std::int64_t bytes) {
  std::string wrong;
  for (std::int64_t done = period; done < bytes && wrong.empty(); done *= 2) {
    const std::int64_t next = std::min(done, bytes - done);
    wrong = cuda::copy(memory + done, memory, static_cast<std::size_t>(next), nullptr);
  }
  return report(wrong);
}

// How many bytes differ from `pattern`, repeated; both are device memory, as `count` is.
const char* gpu_differences(const std::uint8_t* values, const std::uint8_t* pattern,
                            std::int64_t period, std::int64_t bytes, unsigned long long* count) {
  return report(cuda::launch("compare_with_pattern", compare_with_pattern,
                             cuda::blocks_for(bytes, kThreads), kThreads, nullptr, values, pattern,
                             period, bytes, count));
}

// Arrays: weight, velocity, log, p, q, gradient, curvature, sign, finite.
const char* run_gamma(const char* kernel, int type, bool on_gpu, int times, std::int64_t size,
                      void** arrays, double rate, double momentum) {
  return report(with_real(type, [&](auto zero) {
    using T = decltype(zero);
    T* a[7];
    for (int i = 0; i < 7; ++i) a[i] = static_cast<T*>(arrays[i]);
    auto* const sign = static_cast<std::int8_t*>(arrays[7]);
    auto* const finite = static_cast<bool*>(arrays[8]);
    const T r = static_cast<T>(rate);
    if (std::strcmp(kernel, "GammaUpdate") == 0) {
      return tests::run_gamma(GammaUpdate<T>{a[6], r, a[2], sign, a[2], sign}, size, on_gpu, times);
    }
    if (std::strcmp(kernel, "GammaStep") == 0) {
      return tests::run_gamma(GammaStep<T>{a[0], a[2], sign, a[5], a[6], r, finite}, size, on_gpu,
                              times);
    }
    return tests::run_gamma(GammaMomentumStep<T>{a[0], a[1], a[2], a[3], a[4], a[5], a[6], r,
                                                 static_cast<T>(momentum), finite},
                            size, on_gpu, times);
  }));
}

const char* run_select(int type, bool on_gpu, int times, std::int64_t size, const void* scores,
                       std::uint8_t* mask, std::int64_t keep, bool packed) {
  return report(with_any(type, [&](auto zero) {
    using T = decltype(zero);
    const Selection<T> selection{{{static_cast<const T*>(scores), size, mask}}, keep, 0, packed};
    void* memory = nullptr;
    if (on_gpu) {
      std::string wrong = scratch(cuda::scratch_bytes(selection), &memory);
      if (!wrong.empty()) return wrong;
    }
    return repeat(times, [&] {
      if (!on_gpu) return cpu::run(selection, kBaseline, kAllThreads);
      std::string failure;
      const std::string nan = cuda::run(selection, memory, nullptr, &failure);
      return failure.empty() ? nan : failure;
    });
  }));
}

// Arrays: x, gradient at y, u; scale, offset, u_scale, u_offset; moments; two results like x, and
// two per channel.
const char* run_normalisation(const char* kernel, int type, bool on_gpu, int times,
                              std::int64_t rows, std::int64_t channels, void** arrays) {
  return report(with_real(type, [&](auto zero) -> std::string {
    using T = decltype(zero);
    constexpr double kEpsilon = 1e-3;
    T* a[12];
    for (int i = 0; i < 12; ++i) a[i] = static_cast<T*>(arrays[i]);
    auto* const moments = static_cast<double*>(arrays[7]);
    const BatchShape shape{rows, channels};
    const std::string name = kernel;
    if (name == "BatchMoments") {
      return run_shaped(shape, BatchMoments<T>{a[0], a[10], a[11], moments}, on_gpu, times);
    }
    if (name == "BatchNorm") {
      return run_shaped(shape, BatchNorm<T>{kEpsilon, a[0], a[3], a[4], moments, a[8]}, on_gpu,
                        times);
    }
    if (name == "BatchNormGradient") {
      return run_shaped(
          shape, BatchNormGradient<T>{kEpsilon, a[1], a[0], a[3], moments, a[8], a[10], a[11]},
          on_gpu, times);
    }
    return run_shaped(shape,
                      BatchNormSecondGradient<T>{kEpsilon, a[2], a[5], a[6], a[1], a[0], a[3],
                                                 moments, a[8], a[9], a[10]},
                      on_gpu, times);
  }));
}

// `windows` are the fields of Windows.
const char* run_pooling(const char* kernel, int type, bool on_gpu, int times,
                        const std::int64_t* windows, void* image, std::uint8_t* positions,
                        void* values) {
  return report(with_real(type, [&](auto zero) -> std::string {
    using T = decltype(zero);
    const Windows of{windows[0], windows[1], windows[2], windows[3], windows[4], windows[5]};
    T* const i = static_cast<T*>(image);
    T* const v = static_cast<T*>(values);
    const std::string name = kernel;
    if (name == "MaxPool") return run_shaped(of, MaxPool<T>{i, v, positions}, on_gpu, times);
    if (name == "MaxUnpool") return run_shaped(of, MaxUnpool<T>{v, positions, i}, on_gpu, times);
    return run_shaped(of, GatherPooled<T>{i, positions, v}, on_gpu, times);
  }));
}

// `factors` are pooled where there are windows.
const char* run_contraction(int type, bool on_gpu, int times, const std::int64_t* shape,
                            const std::int64_t* windows, const void* inputs, const void* factors,
                            const void* derivative, void* curvature) {
  return report(with_any(type, [&](auto zero) {
    using T = decltype(zero);
    auto* const sums = static_cast<core::Accumulator<T>*>(curvature);
    const auto* const s = static_cast<const T*>(factors);
    ConvCurvature<T> conv{conv_shape(shape), static_cast<const T*>(inputs), s, sums};
    if (windows != nullptr) {
      conv.factors = nullptr;
      conv.pooled = {{windows[0], windows[1], windows[2]}, s, static_cast<const T*>(derivative)};
    }
    return run_curvature(conv, on_gpu, times);
  }));
}

const char* run_input_gradient(int type, bool on_gpu, int times, const std::int64_t* shape,
                               const std::int64_t* windows, const void* kernel, const void* factors,
                               const void* derivative, void* gradient) {
  return report(with_real(type, [&](auto zero) {
    using T = decltype(zero);
    return run_curvature(ConvInputGradient<T>{conv_shape(shape),
                                              static_cast<const T*>(kernel),
                                              {{windows[0], windows[1], windows[2]},
                                               static_cast<const T*>(factors),
                                               static_cast<const T*>(derivative)},
                                              static_cast<T*>(gradient)},
                         on_gpu, times);
  }));
}

const char* run_embedding(int type, bool on_gpu, int times, const std::int64_t* shape,
                          bool wide_indices, const void* indices, const void* factors,
                          void* curvature) {
  return report(with_any(type, [&](auto zero) {
    using T = decltype(zero);
    const EmbeddingShape of{shape[0], shape[1], shape[2], shape[3], shape[4]};
    auto* const sums = static_cast<core::Accumulator<T>*>(curvature);
    const auto* const s = static_cast<const T*>(factors);
    if (wide_indices) {
      return run_curvature(
          EmbeddingCurvature<T, std::int64_t>{of, static_cast<const std::int64_t*>(indices), s,
                                              sums},
          on_gpu, times);
    }
    return run_curvature(
        EmbeddingCurvature<T, std::int32_t>{of, static_cast<const std::int32_t*>(indices), s, sums},
        on_gpu, times);
  }));
}

}  // extern "C"
