// The contractions against the CPU's kernels in float64.
#include "cuda/curvature.h"

#include "emulated.h"

namespace prospr::tests {
namespace {

const cpu::ParallelFor kOneThread = [](std::int64_t n, double, const cpu::Work& work) {
  work(0, n);
};
constexpr auto kBaseline = cpu::InstructionSet::kBaseline;

template <typename T>
const char* name_of() {
  return std::is_same_v<T, float>        ? "float"
         : std::is_same_v<T, double>     ? "double"
         : std::is_same_v<T, core::Half> ? "half"
                                         : "bfloat16";
}

std::int64_t product(const cpu::Shape& shape) {
  std::int64_t result = 1;
  for (const std::int64_t size : shape) result *= size;
  return result;
}

// The same values in float64, or their magnitudes.
template <typename T>
Array<double> widened(const Array<T>& values, bool magnitudes) {
  Array<double> result(values.size());
  for (std::int64_t i = 0; i < values.size(); ++i) {
    const auto value = static_cast<double>(core::widen(values[i]));
    result[i] = magnitudes ? std::abs(value) : value;
  }
  return result;
}

// Errors are measured against the sum without its cancellations.
template <typename Sum>
void expect_close(const Array<Sum>& got, const Array<double>& wanted, const Array<double>& scale,
                  const std::string& what) {
  const double tolerance = sizeof(Sum) == 8 ? 1e-12 : 1e-5;
  double worst = 0;
  for (std::int64_t i = 0; i < got.size(); ++i) {
    const double error = std::abs(static_cast<double>(got[i]) - wanted[i]);
    worst = std::max(worst, std::isnan(error) ? 1 : error / (tolerance * scale[i]));
  }
  expect(worst <= 1, what + ": off by " + std::to_string(worst) + " times the tolerance");
}

template <typename Sum>
Array<Sum> start_of(std::int64_t size) {
  Array<Sum> curvature(size);
  for (std::int64_t i = 0; i < size; ++i) curvature[i] = static_cast<Sum>(0.5);
  return curvature;
}

template <typename T>
void test_shape(const cpu::ConvShape& shape, const Array<T>& inputs, const Array<T>& factors,
                std::int64_t kernel_size, const std::string& name) {
  using Sum = core::Accumulator<T>;
  const std::string what = std::string(name_of<T>()) + ", " + name;
  expect(cuda::check_limits(shape).empty(), what + ": within limits");
  const auto on_gpu = [&] {
    Array<Sum> curvature = start_of<Sum>(kernel_size);
    // Scratch that nobody wrote to is not a number.
    Array<unsigned char> scratch(cuda::scratch_bytes<T>(shape));
    for (std::int64_t i = 0; i < scratch.size(); ++i) scratch[i] = 0xFF;
    const std::string wrong =
        cuda::run(cuda::ConvCurvature<T>{shape, inputs.data(), factors.data(), curvature.data()},
                  scratch.data(), nullptr);
    expect(wrong.empty(), wrong);
    return std::vector<Array<Sum>>{curvature};
  };
  const Array<Sum> got = in_both_orders(on_gpu, what)[0];
  std::vector<Array<double>> results;
  for (const bool magnitudes : {false, true}) {
    const Array<double> wide_inputs = widened(inputs, magnitudes);
    const Array<double> wide_factors = widened(factors, magnitudes);
    Array<double> curvature = start_of<double>(kernel_size);
    cpu::run(cpu::ConvCurvature<double>{shape, wide_inputs.data(), wide_factors.data(),
                                        curvature.data()},
             kBaseline, kOneThread);
    results.push_back(curvature);
  }
  expect_close(got, results[0], results[1], what);
}

struct Conv {
  const char* name;
  cpu::Shape inputs;
  std::int64_t columns;
  cpu::Shape kernel;  // [spatial..., channels / groups, outputs]
  cpu::ConvOptions options;
};

template <typename T>
void test_conv(const Conv& conv) {
  const std::size_t axes = conv.options.strides.size();
  // The output's size is what the check asks for: it is tried out of the shapes that it names.
  cpu::Shape factors{conv.columns, conv.inputs[0]};
  for (std::size_t axis = 0; axis < axes; ++axis) {
    const std::int64_t size = conv.inputs[axis + 1];
    const std::int64_t reach = (conv.kernel[axis] - 1) * conv.options.dilations[axis] + 1;
    const std::int64_t stride = conv.options.strides[axis];
    const bool valid = conv.options.padding == cpu::Padding::kValid;
    factors.push_back(((valid ? size - reach : size - 1) / stride) + 1);
  }
  factors.push_back(conv.kernel.back());
  cpu::ConvShape shape;
  const std::string wrong =
      cpu::check_conv(conv.inputs, factors, conv.kernel, conv.options, &shape);
  expect(wrong.empty(), wrong);
  Random random(1);
  const Array<T> a = random.normal<T>(product(conv.inputs));
  const Array<T> s = random.normal<T>(product(factors));
  test_shape(shape, a, s, product(conv.kernel), conv.name);
}

template <typename T>
void test_dense(const cpu::Shape& inputs, const cpu::Shape& factors, const std::string& name) {
  const cpu::Shape kernel{inputs.back(), factors.back()};
  cpu::ConvShape shape;
  const std::string wrong = cpu::check_dense(inputs, factors, kernel, &shape);
  expect(wrong.empty(), wrong);
  Random random(2);
  const Array<T> a = random.normal<T>(product(inputs));
  const Array<T> s = random.normal<T>(product(factors));
  test_shape(shape, a, s, product(kernel), "dense, " + name);
}

template <typename T, typename Index>
void test_embedding(const cpu::EmbeddingShape& shape) {
  using Sum = core::Accumulator<T>;
  const std::string what = std::string(name_of<T>()) + ", embedding";
  const std::int64_t places = shape.samples * shape.positions;
  const std::int64_t table = shape.vocabulary * shape.outputs;
  Random random(3);
  Array<Index> indices(places);
  // A frequent word, and rare ones.
  for (std::int64_t i = 0; i < places; ++i) {
    indices[i] = static_cast<Index>(random.below(2) == 0 ? 0 : random.below(shape.vocabulary));
  }
  const Array<T> factors = random.normal<T>(places * shape.columns * shape.outputs);
  expect(cuda::check_limits(shape).empty(), what + ": within limits");
  const auto on_gpu = [&](const Array<Index>& of) {
    Array<Sum> curvature = start_of<Sum>(table);
    Array<unsigned char> scratch(cuda::scratch_bytes(shape));
    const std::string wrong = cuda::run(
        cuda::EmbeddingCurvature<T, Index>{shape, of.data(), factors.data(), curvature.data()},
        scratch.data(), nullptr);
    expect(wrong.empty(), wrong);
    return std::vector<Array<Sum>>{curvature};
  };
  const Array<Sum> got = in_both_orders([&] { return on_gpu(indices); }, what)[0];
  std::vector<Array<double>> results;
  for (const bool magnitudes : {false, true}) {
    const Array<double> wide_factors = widened(factors, magnitudes);
    Array<double> curvature = start_of<double>(table);
    const std::string wrong =
        cpu::run(cpu::EmbeddingCurvature<double, Index>{shape, indices.data(), wide_factors.data(),
                                                        curvature.data()},
                 kBaseline, kOneThread);
    expect(wrong.empty(), wrong);
    results.push_back(curvature);
  }
  expect_close(got, results[0], results[1], what);

  // Indices that are no words count for nothing.
  Array<Index> none(places);
  for (std::int64_t i = 0; i < places; ++i) {
    none[i] = static_cast<Index>(i % 2 == 0 ? -1 : shape.vocabulary);
  }
  expect_same_bits(on_gpu(none)[0], start_of<Sum>(table), what + " of no words");
}

template <typename T>
void test_all() {
  using cpu::Padding;
  const std::vector<Conv> convolutions = {
      // Many pixels; strides, dilation, both paddings, tiles that are not full.
      {"valid", {2, 9, 14, 3}, 3, {5, 4, 3, 18}, {{2, 3}, {1, 2}, Padding::kValid, 1}},
      {"same", {1, 7, 6, 8}, 2, {3, 3, 8, 5}, {{1, 1}, {1, 1}, Padding::kSame, 1}},
      {"causal", {2, 40, 3}, 2, {4, 3, 33}, {{1}, {5}, Padding::kCausal, 1}},
      {"3-D, 2 groups",
       {1, 3, 4, 5, 4},
       5,
       {2, 2, 3, 2, 10},
       {{2, 1, 1}, {1, 1, 1}, Padding::kSame, 2}},
      {"wide", {1, 3, 3, 5}, 1, {2, 2, 5, 67}, {{1, 1}, {1, 1}, Padding::kSame, 1}},
      {"one of everything", {1, 1, 1, 1}, 1, {1, 1, 1, 1}, {{1, 1}, {1, 1}, Padding::kValid, 1}},
      // Few pixels, an even and an odd number, and more columns: pairs.
      {"4 pixels", {5, 2, 2, 9}, 10, {3, 3, 9, 7}, {{1, 1}, {1, 1}, Padding::kSame, 1}},
      {"9 pixels", {2, 3, 3, 4}, 12, {3, 3, 4, 6}, {{1, 1}, {1, 1}, Padding::kSame, 1}},
      // Every channel a group of its own; more taps than a thread takes.
      {"depthwise", {2, 6, 7, 5}, 3, {3, 3, 1, 10}, {{1, 2}, {1, 1}, Padding::kSame, 5}},
      {"depthwise, 15 taps", {2, 6, 7, 3}, 2, {3, 5, 1, 3}, {{1, 1}, {2, 1}, Padding::kSame, 3}},
  };
  for (const Conv& conv : convolutions) test_conv<T>(conv);
  test_dense<T>({70, 66}, {3, 70, 20}, "one position");
  test_dense<T>({9, 3, 20}, {6, 9, 3, 14}, "3 positions");
  test_dense<T>({2, 50, 10}, {2, 2, 50, 14}, "50 positions");
  test_embedding<T, std::int32_t>({3, 7, 11, 6, 40});
}

}  // namespace

void test_curvature() {
  test_all<float>();
  test_all<double>();
  test_all<core::Half>();
  test_all<core::BFloat16>();
  // More places than a block sorts.
  test_embedding<float, std::int64_t>({50, 23, 3, 50, 5});
  expect(!cuda::check_limits(
              cuda::EmbeddingShape{std::int64_t{1} << 31, 1, 1, std::int64_t{1} << 33, 1})
              .empty(),
         "too many keys");
}

}  // namespace prospr::tests
