// One thread takes 16 bytes of each array at a time. Compiled without fused multiply-add, as the
// CPU's kernels are: the same bits.
#include <type_traits>

#include "core/gamma.h"
#include "cuda/gamma.h"
#include "cuda/launch.h"

namespace prospr::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kPackBytes = 16;
template <typename T>
constexpr int kPackLanes = kPackBytes / sizeof(T);

// What one access moves: its address is a multiple of its size.
template <typename T, int kLanes>
struct alignas(kLanes * sizeof(T)) Pack {
  T lane[kLanes];
};

template <int kLanes, typename T>
__device__ Pack<T, kLanes> load(const T* from) {
  return *reinterpret_cast<const Pack<T, kLanes>*>(from);
}

template <int kLanes, typename T>
__device__ void store(T* to, const Pack<T, kLanes>& pack) {
  *reinterpret_cast<Pack<T, kLanes>*>(to) = pack;
}

template <int kLanes, typename T>
__device__ bool all_finite(const Pack<T, kLanes>& gradient, const Pack<T, kLanes>& curvature,
                           T learning_rate) {
  bool finite = true;
#pragma unroll
  for (int i = 0; i < kLanes; ++i) {
    finite = finite && core::is_finite(gradient.lane[i]) &&
             core::is_finite(learning_rate * curvature.lane[i]);
  }
  return finite;
}

// In place, signs are touched only where one flips.
template <int kLanes, typename T>
__device__ void flip_signs(const Pack<T, kLanes>& curvature, T learning_rate,
                           const std::int8_t* sign, std::int8_t* sign_out) {
  bool negative[kLanes];
  bool any = sign != sign_out;
#pragma unroll
  for (int i = 0; i < kLanes; ++i) {
    negative[i] = core::gamma(curvature.lane[i], learning_rate) < 0;
    any = any || negative[i];
  }
  if (!any) return;
  Pack<std::int8_t, kLanes> signs = load<kLanes>(sign);
#pragma unroll
  for (int i = 0; i < kLanes; ++i) {
    if (negative[i]) signs.lane[i] = static_cast<std::int8_t>(-signs.lane[i]);
  }
  store<kLanes>(sign_out, signs);
}

// The next kLanes weights from i on; whether what came in was finite.
template <int kLanes, typename T>
__device__ bool advance(const GammaUpdate<T>& a, std::int64_t i) {
  const auto curvature = load<kLanes>(a.curvature + i);
  auto log_gamma = load<kLanes>(a.log_gamma + i);
#pragma unroll
  for (int k = 0; k < kLanes; ++k) {
    log_gamma.lane[k] += core::log_abs_gamma(curvature.lane[k], a.learning_rate);
  }
  store<kLanes>(a.log_gamma_out + i, log_gamma);
  flip_signs<kLanes>(curvature, a.learning_rate, a.sign + i, a.sign_out + i);
  return true;
}

template <int kLanes, typename T>
__device__ bool advance(const GammaStep<T>& a, std::int64_t i) {
  const auto gradient = load<kLanes>(a.gradient + i);
  const auto curvature = load<kLanes>(a.curvature + i);
  auto weight = load<kLanes>(a.weight + i);
  auto log_gamma = load<kLanes>(a.log_gamma + i);
#pragma unroll
  for (int k = 0; k < kLanes; ++k) {
    weight.lane[k] -= a.learning_rate * gradient.lane[k];
    log_gamma.lane[k] += core::log_abs_gamma(curvature.lane[k], a.learning_rate);
  }
  store<kLanes>(a.weight + i, weight);
  store<kLanes>(a.log_gamma + i, log_gamma);
  flip_signs<kLanes>(curvature, a.learning_rate, a.sign + i, a.sign + i);
  return all_finite(gradient, curvature, a.learning_rate);
}

template <int kLanes, typename T>
__device__ bool advance(const GammaMomentumStep<T>& a, std::int64_t i) {
  const auto gradient = load<kLanes>(a.gradient + i);
  const auto curvature = load<kLanes>(a.curvature + i);
  auto weight = load<kLanes>(a.weight + i);
  auto velocity = load<kLanes>(a.velocity + i);
  auto log_scale = load<kLanes>(a.log_scale + i);
  auto p = load<kLanes>(a.p + i);
  auto q = load<kLanes>(a.q + i);
#pragma unroll
  for (int k = 0; k < kLanes; ++k) {
    velocity.lane[k] = a.momentum * velocity.lane[k] + gradient.lane[k];
    weight.lane[k] -= a.learning_rate * velocity.lane[k];
    const core::MomentumPair<T> next = core::momentum_pair_step<T>(
        {log_scale.lane[k], p.lane[k], q.lane[k]}, curvature.lane[k], a.learning_rate, a.momentum);
    log_scale.lane[k] = next.log_scale;
    p.lane[k] = next.p;
    q.lane[k] = next.q;
  }
  store<kLanes>(a.weight + i, weight);
  store<kLanes>(a.velocity + i, velocity);
  store<kLanes>(a.log_scale + i, log_scale);
  store<kLanes>(a.p + i, p);
  store<kLanes>(a.q + i, q);
  return all_finite(gradient, curvature, a.learning_rate);
}

// Weights [0, packed) a pack at a time, then one at a time up to `size`. Blocks that find something
// that is not finite all store the same false, so it needs no atomics.
template <int kLanes, typename Arguments>
__global__ void __launch_bounds__(kThreads, 2)
    for_each_weight(Arguments arguments, std::int64_t packed, std::int64_t size, bool* finite) {
  bool here = true;
  for (std::int64_t i = global_thread() * kLanes; i < packed; i += global_threads() * kLanes) {
    here = advance<kLanes>(arguments, i) && here;
  }
  for (std::int64_t i = packed + global_thread(); i < size; i += global_threads()) {
    here = advance<1>(arguments, i) && here;
  }
  if (finite != nullptr && __syncthreads_or(!here) && threadIdx.x == 0) *finite = false;
}

bool on_boundary(const void* pointer, std::size_t bytes) {
  return reinterpret_cast<std::uintptr_t>(pointer) % bytes == 0;
}

template <typename T, typename Arguments>
std::string run_all(const char* name, const Arguments& arguments, bool aligned, std::int64_t size,
                    bool* finite, Stream stream) {
  constexpr int kLanes = kPackLanes<T>;
  const std::int64_t packed = aligned ? size / kLanes * kLanes : 0;
  return launch(name, for_each_weight<kLanes, Arguments>,
                blocks_for(aligned ? ceil_divide(size, kLanes) : size, kThreads), kThreads, stream,
                arguments, packed, size, finite);
}

// Slices of larger tensors may begin anywhere.
template <typename T, typename... Values>
bool all_aligned(const Values*... values) {
  return (on_boundary(values, kPackLanes<T> * sizeof(Values)) && ...);
}

template <typename Step>
std::string run_step(const char* name, const Step& step, bool aligned, std::int64_t size,
                     Stream stream) {
  using T = std::remove_pointer_t<decltype(step.weight)>;
  const std::string wrong =
      checked(name, cudaMemsetAsync(step.finite, static_cast<int>(true), sizeof(bool), stream));
  return wrong.empty() ? run_all<T>(name, step, aligned, size, step.finite, stream) : wrong;
}

}  // namespace

template <typename T>
std::string run(const GammaUpdate<T>& a, std::int64_t size, void*, Stream stream) {
  const bool aligned =
      all_aligned<T>(a.curvature, a.log_gamma, a.sign, a.log_gamma_out, a.sign_out);
  return run_all<T>("gamma_update", a, aligned, size, nullptr, stream);
}

template <typename T>
std::string run(const GammaStep<T>& a, std::int64_t size, void*, Stream stream) {
  const bool aligned = all_aligned<T>(a.weight, a.log_gamma, a.sign, a.gradient, a.curvature);
  return run_step("gamma_step", a, aligned, size, stream);
}

template <typename T>
std::string run(const GammaMomentumStep<T>& a, std::int64_t size, void*, Stream stream) {
  const bool aligned =
      all_aligned<T>(a.weight, a.velocity, a.log_scale, a.p, a.q, a.gradient, a.curvature);
  return run_step("gamma_momentum_step", a, aligned, size, stream);
}

#define INSTANTIATE(T)                                                          \
  template std::string run(const GammaUpdate<T>&, std::int64_t, void*, Stream); \
  template std::string run(const GammaStep<T>&, std::int64_t, void*, Stream);   \
  template std::string run(const GammaMomentumStep<T>&, std::int64_t, void*, Stream)
INSTANTIATE(float);
INSTANTIATE(double);
#undef INSTANTIATE

}  // namespace prospr::cuda
