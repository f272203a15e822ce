// The gradient at a convolution's input against the CPU's kernel in float64.
#include "cuda/curvature.h"
#include "cuda/curvature_pooled_factors.h"
#include "curvature_problems.h"
#include "emulated.h"

namespace prospr::tests {
namespace {

template <typename T>
void test_conv(const PooledConv& pooled) {
  const Conv& conv = pooled.conv;
  const std::string what = std::string(name_of<T>()) + ", " + conv.name;
  const PooledShapes shapes = shapes_of(pooled);
  const Shape input_size(conv.inputs.begin() + 1, conv.inputs.end() - 1);
  ConvShape shape;
  std::int64_t windows[ConvShape::kAxes];
  const std::string refused = check_pooled_conv_input_gradient(
      conv.kernel, shapes.factors, shapes.derivative, input_size, conv.options, &shape, windows);
  expect(refused.empty(), refused);
  expect(cuda::check_limits(shape).empty(), what + ": within limits");

  Random random(6);
  const Array<T> kernel = random.normal<T>(product(conv.kernel));
  const Array<T> derivative = mostly_zero<T>(random, product(shapes.derivative));
  Array<T> factors = random.normal<T>(product(shapes.factors));
  const std::int64_t size = conv.columns * product(conv.inputs);
  const auto run_with = [&](const auto& k, const auto& values, const auto& d, const auto& run) {
    using Real = std::remove_const_t<std::remove_reference_t<decltype(k[0])>>;
    Array<Real> gradient(size);
    // Memory that nobody wrote to is not a number.
    for (std::int64_t i = 0; i < size; ++i) gradient[i] = std::numeric_limits<Real>::quiet_NaN();
    run(ConvInputGradient<Real>{shape,
                                k.data(),
                                {{windows[0], windows[1], windows[2]}, values.data(), d.data()},
                                gradient.data()});
    return gradient;
  };
  const auto on_gpu = [&] {
    return std::vector<Array<T>>{run_with(kernel, factors, derivative, [](const auto& gradient) {
      const std::string wrong = finished(cuda::run(gradient, nullptr, nullptr));
      expect(wrong.empty(), wrong);
    })};
  };
  const Array<T> got = in_both_orders(on_gpu, what)[0];
  std::vector<Array<double>> results;
  for (const bool magnitudes : {false, true}) {
    results.push_back(run_with(
        widened(kernel, magnitudes), widened(factors, magnitudes), widened(derivative, magnitudes),
        [](const auto& gradient) { cpu::run(gradient, kBaseline, kOneThread); }));
  }
  expect_close(got, results[0], results[1], what);

  // A factor does not count where the derivative is zero.
  if (spoil_unused(shape, windows, derivative, &factors)) {
    expect_same_bits(on_gpu()[0], got, what + ", with infinite factors that do not count");
  }
}

void test_division() {
  constexpr std::int64_t kLargest = std::numeric_limits<std::int32_t>::max();
  Random random(7);
  std::vector<std::int64_t> numbers;
  for (const std::int64_t middle : {std::int64_t{3}, std::int64_t{1} << 16, kLargest - 2}) {
    for (std::int64_t i = -2; i <= 2; ++i) numbers.push_back(middle + i);
  }
  for (int i = 0; i < 100; ++i) numbers.push_back(1 + random.below(kLargest >> random.below(31)));
  for (const std::int64_t divisor : numbers) {
    for (const std::int64_t near : numbers) {
      // About a multiple it would show.
      for (const std::int64_t number : {near, near / divisor * divisor,
                                        std::max<std::int64_t>(near / divisor * divisor - 1, 0)}) {
        const std::uint32_t got = static_cast<std::uint32_t>(number) / cuda::divisor(divisor);
        expect(got == number / divisor, std::to_string(number) + " / " + std::to_string(divisor) +
                                            " is not " + std::to_string(got));
      }
    }
  }
}

}  // namespace

void test_input_gradient() {
  test_division();
  for (const PooledConv& conv : pooled_convolutions()) {
    test_conv<float>(conv);
    test_conv<double>(conv);
  }
}

}  // namespace prospr::tests
