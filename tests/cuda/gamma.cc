// The gamma kernels against the CPU's, to the bit.
#include "cuda/gamma.h"

#include <utility>

#include "cpu/gamma.h"
#include "emulated.h"

namespace prospr::tests {
namespace {

template <typename T>
struct State {
  std::vector<Array<T>> arrays;
  Array<std::int8_t> sign;
};

template <typename T>
State<T> make_state(Random random, std::int64_t size, std::int64_t offset) {
  State<T> state{{}, Array<std::int8_t>(size, offset)};
  for (int i = 0; i < 7; ++i) state.arrays.push_back(random.normal<T>(size, 9, offset));
  for (std::int64_t i = 0; i < size; ++i) state.sign[i] = random.below(2) == 0 ? 1 : -1;
  return state;
}

template <typename T>
void compare(const State<T>& got, const State<T>& wanted, const std::string& what) {
  for (std::size_t i = 0; i < got.arrays.size(); ++i) {
    expect_same_bits(got.arrays[i], wanted.arrays[i], what + ", array " + std::to_string(i));
  }
  expect_same_bits(got.sign, wanted.sign, what + ", sign");
}

// `offset` elements off the boundary of 16 bytes.
template <typename T>
void test_size(std::int64_t size, std::int64_t offset) {
  const std::string what = (sizeof(T) == 4 ? "float, " : "double, ") + std::to_string(size) +
                           " weights, offset " + std::to_string(offset);
  const Random random(static_cast<unsigned>(size));
  const T rate = T(0.1);
  for (const bool poisoned : {false, true}) {
    if (poisoned && size == 0) continue;
    State<T> gpu = make_state<T>(random, size, offset);
    if (poisoned) gpu.arrays[0][size - 1] = std::numeric_limits<T>::infinity();
    State<T> cpu = gpu;

    const auto update = [&](State<T>& s) {
      return GammaUpdate<T>{s.arrays[1].data(), rate,         s.arrays[2].data(), s.sign.data(),
                            s.arrays[2].data(), s.sign.data()};
    };
    expect(finished(cuda::run(update(gpu), size, nullptr, nullptr)).empty(), what);
    cpu::run(update(cpu), size, kBaseline, kOneThread);
    compare(gpu, cpu, "gamma_update, " + what);

    Array<std::int8_t> sign_out(size, offset);
    auto apart = update(gpu);
    apart.sign_out = sign_out.data();
    expect(finished(cuda::run(apart, size, nullptr, nullptr)).empty(), what);
    cpu::run(update(cpu), size, kBaseline, kOneThread);
    expect_same_bits(sign_out, cpu.sign, "gamma_update into another sign, " + what);
    gpu = cpu;

    static_assert(sizeof(bool) == 1);
    Array<unsigned char> flag(1);
    bool* const gpu_finite = reinterpret_cast<bool*>(flag.data());
    bool cpu_finite = false;
    const auto step = [&](State<T>& s, bool* finite) {
      return GammaStep<T>{s.arrays[3].data(),
                          s.arrays[2].data(),
                          s.sign.data(),
                          s.arrays[0].data(),
                          s.arrays[1].data(),
                          rate,
                          finite};
    };
    expect(finished(cuda::run(step(gpu, gpu_finite), size, nullptr, nullptr)).empty(), what);
    cpu::run(step(cpu, &cpu_finite), size, kBaseline, kOneThread);
    expect(cpu_finite == !poisoned, what);
    expect(*gpu_finite == !poisoned, "gamma_step, finite, " + what);
    compare(gpu, cpu, "gamma_step, " + what);

    const auto momentum_step = [&](State<T>& s, bool* finite) {
      return GammaMomentumStep<T>{s.arrays[3].data(),
                                  s.arrays[4].data(),
                                  s.arrays[2].data(),
                                  s.arrays[5].data(),
                                  s.arrays[6].data(),
                                  s.arrays[0].data(),
                                  s.arrays[1].data(),
                                  rate,
                                  T(0.9),
                                  finite};
    };
    expect(finished(cuda::run(momentum_step(gpu, gpu_finite), size, nullptr, nullptr)).empty(),
           what);
    cpu::run(momentum_step(cpu, &cpu_finite), size, kBaseline, kOneThread);
    expect(cpu_finite == !poisoned, what);
    expect(*gpu_finite == !poisoned, "gamma_momentum_step, finite, " + what);
    compare(gpu, cpu, "gamma_momentum_step, " + what);
  }
}

}  // namespace

void test_gamma() {
  for (const auto& [size, offset] :
       {std::pair<int, int>{0, 0}, {1, 0}, {7, 0}, {2051, 0}, {600, 1}}) {
    test_size<float>(size, offset);
    test_size<double>(size, offset);
  }
}

}  // namespace prospr::tests
