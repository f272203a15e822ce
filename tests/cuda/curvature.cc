// The contractions against the CPU's kernels in float64.
#include "cuda/curvature.h"

#include "curvature_problems.h"
#include "emulated.h"

namespace prospr::tests {
namespace {

template <typename Sum>
Array<Sum> start_of(std::int64_t size) {
  Array<Sum> curvature(size);
  for (std::int64_t i = 0; i < size; ++i) curvature[i] = static_cast<Sum>(0.5);
  return curvature;
}

// What a contraction reads; pooled factors if there is a derivative.
template <typename T>
struct Operands {
  ConvShape shape;
  Array<T> inputs;
  Array<T> factors;
  Array<T> derivative = Array<T>(0);
  PooledFactors<T> pooled = {};

  ConvCurvature<T> added_to(core::Accumulator<T>* curvature) {
    if (derivative.size() == 0) return {shape, inputs.data(), factors.data(), curvature};
    pooled.values = factors.data();
    pooled.derivative = derivative.data();
    return {shape, inputs.data(), nullptr, curvature, pooled};
  }
};

template <typename T>
void test_operands(Operands<T> operands, std::int64_t kernel_size, const std::string& name) {
  using Sum = core::Accumulator<T>;
  const std::string what = std::string(name_of<T>()) + ", " + name;
  expect(cuda::check_limits(operands.shape).empty(), what + ": within limits");
  const auto on_gpu = [&] {
    Array<Sum> curvature = start_of<Sum>(kernel_size);
    const ConvCurvature<T> conv = operands.added_to(curvature.data());
    // Scratch that nobody wrote to is not a number.
    Array<unsigned char> scratch(cuda::scratch_bytes(conv));
    for (std::int64_t i = 0; i < scratch.size(); ++i) scratch[i] = 0xFF;
    const std::string wrong = finished(cuda::run(conv, scratch.data(), nullptr));
    expect(wrong.empty(), wrong);
    return std::vector<Array<Sum>>{curvature};
  };
  Array<Sum> got = in_both_orders(on_gpu, what)[0];
  std::vector<Array<double>> results;
  for (const bool magnitudes : {false, true}) {
    Operands<double> wide{operands.shape, widened(operands.inputs, magnitudes),
                          widened(operands.factors, magnitudes),
                          widened(operands.derivative, magnitudes)};
    std::copy_n(operands.pooled.windows, ConvShape::kAxes, wide.pooled.windows);
    Array<double> curvature = start_of<double>(kernel_size);
    cpu::run(wide.added_to(curvature.data()), kBaseline, kOneThread);
    results.push_back(curvature);
  }
  // An infinite input is where it belongs, and nowhere else.
  for (std::int64_t i = 0; i < kernel_size; ++i) {
    if (std::isfinite(got[i]) || std::isfinite(results[0][i])) continue;
    got[i] = 0;
    results[0][i] = results[1][i] = 0;
  }
  expect_close(got, results[0], results[1], what);

  // A factor does not count where the derivative is zero.
  if (spoil_unused(operands.shape, operands.pooled.windows, operands.derivative,
                   &operands.factors)) {
    expect_same_bits(on_gpu()[0], got, what + ", with infinite factors that do not count");
  }
}

template <typename T>
void test_conv(const Conv& conv, bool infinite_ends = false) {
  Shape factors{conv.columns, conv.inputs[0]};
  const Shape output = output_size(conv);
  factors.insert(factors.end(), output.begin(), output.end());
  factors.push_back(conv.kernel.back());
  ConvShape shape;
  const std::string wrong = check_conv(conv.inputs, factors, conv.kernel, conv.options, &shape);
  expect(wrong.empty(), wrong);
  Random random(1);
  Array<T> a = random.normal<T>(product(conv.inputs));
  const Array<T> s = random.normal<T>(product(factors));
  if (infinite_ends) {
    a[0] = a[a.size() - 1] = Random::narrow<T>(std::numeric_limits<double>::infinity());
  }
  test_operands<T>({shape, a, s}, product(conv.kernel), conv.name);
}

template <typename T>
void test_pooled(const PooledConv& pooled) {
  const Conv& conv = pooled.conv;
  const PooledShapes shapes = shapes_of(pooled);
  Random random(4);
  Operands<T> operands{{},
                       random.normal<T>(product(conv.inputs)),
                       random.normal<T>(product(shapes.factors)),
                       mostly_zero<T>(random, product(shapes.derivative))};
  const std::string wrong =
      check_pooled_conv(conv.inputs, shapes.factors, shapes.derivative, conv.kernel, conv.options,
                        &operands.shape, operands.pooled.windows);
  expect(wrong.empty(), wrong);
  test_operands(operands, product(conv.kernel), std::string("pooled, ") + conv.name);
}

template <typename T>
void test_dense(const Shape& inputs, const Shape& factors, const std::string& name) {
  const Shape kernel{inputs.back(), factors.back()};
  ConvShape shape;
  const std::string wrong = check_dense(inputs, factors, kernel, &shape);
  expect(wrong.empty(), wrong);
  Random random(2);
  const Array<T> a = random.normal<T>(product(inputs));
  const Array<T> s = random.normal<T>(product(factors));
  test_operands<T>({shape, a, s}, product(kernel), "dense, " + name);
}

// The factors begin `offset` elements into their memory.
template <typename T, typename Index>
void test_embedding(const EmbeddingShape& shape, std::int64_t offset = 0) {
  using Sum = core::Accumulator<T>;
  const std::string what = std::string(name_of<T>()) + ", embedding of " +
                           std::to_string(shape.samples * shape.positions) + " places, " +
                           std::to_string(shape.outputs) + " outputs";
  const std::int64_t places = shape.samples * shape.positions;
  const std::int64_t table = shape.vocabulary * shape.outputs;
  Random random(3);
  Array<Index> indices(places);
  // A frequent word, and rare ones.
  for (std::int64_t i = 0; i < places; ++i) {
    indices[i] = static_cast<Index>(random.below(2) == 0 ? 0 : random.below(shape.vocabulary));
  }
  const Array<T> factors = random.normal<T>(places * shape.columns * shape.outputs, 1, offset);
  expect(cuda::check_limits(shape).empty(), what + ": within limits");
  const auto on_gpu = [&](const Array<Index>& of) {
    Array<Sum> curvature = start_of<Sum>(table);
    const EmbeddingCurvature<T, Index> embedding{shape, of.data(), factors.data(),
                                                 curvature.data()};
    Array<unsigned char> scratch(cuda::scratch_bytes(embedding));
    const std::string wrong = finished(cuda::run(embedding, scratch.data(), nullptr));
    expect(wrong.empty(), wrong);
    return std::vector<Array<Sum>>{curvature};
  };
  // Many threads of the host are slow: once will do.
  const bool once = places > 1 << 16;
  const Array<Sum> got =
      once ? on_gpu(indices)[0] : in_both_orders([&] { return on_gpu(indices); }, what)[0];
  std::vector<Array<double>> results;
  for (const bool magnitudes : {false, true}) {
    const Array<double> wide_factors = widened(factors, magnitudes);
    Array<double> curvature = start_of<double>(table);
    const std::string wrong =
        cpu::run(EmbeddingCurvature<double, Index>{shape, indices.data(), wide_factors.data(),
                                                   curvature.data()},
                 kBaseline, kOneThread);
    expect(wrong.empty(), wrong);
    results.push_back(curvature);
  }
  expect_close(got, results[0], results[1], what);

  if (once) return;

  // Indices that are no words count for nothing: those of the last word, then all.
  const auto no_word = [&](std::int64_t i) {
    return static_cast<Index>(i % 2 == 0 ? -1 : shape.vocabulary);
  };
  Array<Index> some = indices;
  Array<Index> none(places);
  for (std::int64_t i = 0; i < places; ++i) {
    none[i] = no_word(i);
    if (indices[i] == shape.vocabulary - 1) some[i] = no_word(i);
  }
  Array<Sum> wanted = got;
  for (std::int64_t i = table - shape.outputs; i < table; ++i) wanted[i] = static_cast<Sum>(0.5);
  expect_same_bits(on_gpu(some)[0], wanted, what + " of some words");
  expect_same_bits(on_gpu(none)[0], start_of<Sum>(table), what + " of no words");
}

template <typename T>
void test_all() {
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
      // More rows than a block finds at once; columns side by side in groups that differ in size,
      // read by packs and not; half a tile; many slices.
      {"many pixels", {1, 18, 20, 4}, 5, {3, 3, 4, 20}, {{1, 1}, {1, 1}, Padding::kSame, 1}},
      {"one channel", {3, 17, 19, 1}, 7, {5, 5, 1, 6}, {{1, 1}, {1, 1}, Padding::kSame, 1}},
      {"12 outputs, 2 groups", {2, 7, 5, 8}, 9, {2, 3, 4, 24}, {{1, 1}, {1, 1}, Padding::kSame, 2}},
      {"many samples", {40, 5, 5, 2}, 2, {2, 2, 2, 3}, {{1, 1}, {1, 1}, Padding::kSame, 1}},
      // Few pixels, an even and an odd number, and more columns: pairs.
      {"4 pixels", {5, 2, 2, 9}, 10, {3, 3, 9, 7}, {{1, 1}, {1, 1}, Padding::kSame, 1}},
      {"9 pixels", {2, 3, 3, 4}, 12, {3, 3, 4, 6}, {{1, 1}, {1, 1}, Padding::kSame, 1}},
      // Slices that have some of a sample's pairs, which may add up to less than zero.
      {"16 pixels", {4, 4, 4, 24}, 10, {3, 3, 24, 8}, {{1, 1}, {1, 1}, Padding::kSame, 1}},
  };
  // Every channel a group of its own.
  const std::vector<Conv> depthwise = {
      {"depthwise", {2, 6, 7, 5}, 3, {3, 3, 1, 10}, {{1, 2}, {1, 1}, Padding::kSame, 5}},
      {"depthwise, 15 taps", {2, 6, 7, 3}, 2, {3, 5, 1, 3}, {{1, 1}, {2, 1}, Padding::kSame, 3}},
      // Pixels at the border and others; several threads per image.
      {"depthwise 3x3", {2, 9, 21, 5}, 3, {3, 3, 1, 10}, {{1, 1}, {1, 1}, Padding::kSame, 5}},
      {"depthwise 3x3, tall",
       {1, 32, 20, 3},
       2,
       {3, 3, 1, 3},
       {{1, 1}, {1, 1}, Padding::kValid, 3}},
      {"depthwise 3x3, stride 2",
       {1, 13, 26, 3},
       1,
       {3, 3, 1, 3},
       {{2, 2}, {1, 1}, Padding::kValid, 3}},
      {"depthwise 5x5", {1, 12, 26, 3}, 2, {5, 5, 1, 3}, {{1, 1}, {1, 1}, Padding::kSame, 3}},
      {"depthwise 5x5, stride 2",
       {1, 13, 27, 2},
       3,
       {5, 5, 1, 4},
       {{2, 2}, {1, 1}, Padding::kSame, 2}},
      // Rows of the kernel for two threads; one row; what has no loops of its own.
      {"depthwise 4x3", {2, 9, 12, 2}, 1, {4, 3, 1, 2}, {{2, 1}, {2, 1}, Padding::kSame, 2}},
      {"depthwise, causal", {2, 40, 4}, 2, {3, 1, 4}, {{1}, {1}, Padding::kCausal, 4}},
      {"depthwise 7x7", {1, 8, 9, 2}, 2, {7, 7, 1, 2}, {{1, 1}, {1, 1}, Padding::kSame, 2}},
      {"depthwise, dilated", {1, 8, 9, 2}, 2, {3, 3, 1, 4}, {{3, 1}, {1, 2}, Padding::kValid, 2}},
      {"depthwise, 3-D",
       {1, 3, 5, 6, 2},
       2,
       {2, 3, 3, 1, 2},
       {{1, 1, 1}, {1, 1, 1}, Padding::kSame, 2}},
  };
  for (const Conv& conv : convolutions) test_conv<T>(conv);
  for (const Conv& conv : depthwise) {
    test_conv<T>(conv);
    test_conv<T>(conv, true);
  }
  for (const PooledConv& conv : pooled_convolutions()) test_pooled<T>(conv);
  test_dense<T>({70, 66}, {3, 70, 20}, "one position");
  test_dense<T>({9, 3, 20}, {6, 9, 3, 14}, "3 positions");
  test_dense<T>({300, 68}, {3, 300, 72}, "packs");
  test_dense<T>({2, 50, 10}, {2, 2, 50, 14}, "50 positions");
  test_embedding<T, std::int32_t>({3, 7, 11, 6, 40});
  // Factors that packs cannot read, and samples in which a word has more places than a chunk.
  test_embedding<T, std::int64_t>({3, 7, 4, 6, 8}, 1);
  test_embedding<T, std::int32_t>({2, 90, 6, 3, 8});
}

}  // namespace

void test_curvature() {
  test_all<float>();
  test_all<double>();
  test_all<core::Half>();
  test_all<core::BFloat16>();
  // Several samples per thread, an odd number.
  test_conv<float>({"depthwise, wide",
                    {131, 1, 2, 2048},
                    1,
                    {3, 3, 1, 2048},
                    {{1, 1}, {1, 1}, Padding::kSame, 2048}});
  test_embedding<float, std::int32_t>({1, 1, 1, 1, 1});
  // More places than a block sorts, and than are merged at a time.
  test_embedding<float, std::int64_t>({50, 23, 3, 50, 5});
  test_embedding<float, std::int32_t>({300, 223, 1, 40, 1});
  expect(!cuda::check_limits(EmbeddingShape{std::int64_t{1} << 31, 1, 1, std::int64_t{1} << 33, 1})
              .empty(),
         "too many keys");
}

}  // namespace prospr::tests
