// What a fuzzer calls: one function a family of kernels, in libFuzzer's manner.
//
// The bytes are read as the shapes and options that a caller could give. What the checks accept,
// and is small, is run on buffers of exactly these sizes, so that AddressSanitizer sees every step
// beyond; shapes that no memory would hold are for the checks' own arithmetic. A kernel's result
// must not depend on how it was split.
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <string>
#include <vector>

#include "cpu/block_normalisation.h"
#include "cpu/curvature.h"
#include "cpu/gamma.h"
#include "cpu/normalisation.h"
#include "cpu/pooling.h"
#include "cpu/select.h"
#include "cpu/sparse_conv.h"
#include "cpu/sparse_conv_small.h"

namespace {

using namespace prospr;

// Elements of one tensor, and multiply-adds of one call, that are still run.
constexpr double kMostElements = 1 << 14;
constexpr double kMostWork = 1 << 20;

class Bytes {
 public:
  Bytes(const std::uint8_t* data, std::size_t size) : data_(data), end_(data + size) {}

  std::uint8_t byte() { return data_ == end_ ? 0 : *data_++; }

  // Of `count` choices, one.
  int choice(int count) { return byte() % count; }

  // Small mostly, and else what overflows.
  std::int64_t number() {
    constexpr std::int64_t kLargest = std::numeric_limits<std::int64_t>::max();
    constexpr std::int64_t kNotable[] = {-1,
                                         64,
                                         100,
                                         127,
                                         1000,
                                         (std::int64_t{1} << 31) - 1,
                                         std::int64_t{1} << 31,
                                         std::int64_t{1} << 32,
                                         std::int64_t{1} << 40,
                                         std::int64_t{1} << 62,
                                         kLargest,
                                         -kLargest - 1};
    const int code = byte();
    if (code < 192) return code % 24;
    if (code < 204) return kNotable[code - 192];
    std::uint64_t value = 0;
    for (int i = 0; i < (code < 230 ? 2 : 8); ++i) value = value << 8 | byte();
    return static_cast<std::int64_t>(value);
  }

  Shape numbers(int count) {
    Shape result;
    for (int i = 0; i < count; ++i) result.push_back(number());
    return result;
  }

  Shape shape() { return numbers(choice(7)); }

 private:
  const std::uint8_t* data_;
  const std::uint8_t* end_;
};

double elements_of(const Shape& shape) {
  double result = 1;
  for (const std::int64_t size : shape) result *= static_cast<double>(size);
  return result;
}

bool small(const std::vector<Shape>& shapes) {
  return std::all_of(shapes.begin(), shapes.end(),
                     [](const Shape& shape) { return elements_of(shape) <= kMostElements; });
}

// Elements of any bits, not-a-numbers and subnormal ones among them; the same for the same seed.
template <typename T>
std::vector<T> values(double size, unsigned seed) {
  std::vector<T> result(static_cast<std::size_t>(size));
  std::uint64_t state = seed * 2 + 1;
  auto* const bytes = reinterpret_cast<std::uint8_t*>(result.data());
  for (std::size_t i = 0; i < result.size() * sizeof(T); ++i) {
    state = state * 6364136223846793005u + 1442695040888963407u;
    bytes[i] = state >> 62 == 0 ? 0 : static_cast<std::uint8_t>(state >> 33);
  }
  result.shrink_to_fit();
  return result;
}

// Equal parts, one after the other: what the sanitizers look for does not need threads.
cpu::ParallelFor split_into(std::int64_t most) {
  return [most](std::int64_t n, double, const cpu::Work& work) {
    const std::int64_t parts = std::min(most, n);
    for (std::int64_t part = 0; part < parts; ++part) {
      work(n * part / parts, n * (part + 1) / parts);
    }
  };
}

cpu::InstructionSet instruction_set_of(Bytes& bytes) {
  static const std::vector<cpu::InstructionSet> available = cpu::available_instruction_sets();
  return available[bytes.byte() % available.size()];
}

template <typename T>
void must_be_equal(const std::vector<T>& one, const std::vector<T>& other) {
  if (one.empty() || std::memcmp(one.data(), other.data(), one.size() * sizeof(T)) == 0) return;
  std::fprintf(stderr, "the result depends on the split\n");
  std::abort();
}

// Runs `kernel(result, instruction_set, parallel_for)` on copies of `start`, split in two ways.
template <typename T, typename Kernel>
void run_twice(Bytes& bytes, const std::vector<T>& start, const Kernel& kernel) {
  const cpu::InstructionSet instruction_set = instruction_set_of(bytes);
  std::vector<T> whole = start;
  kernel(whole.data(), instruction_set, split_into(1));
  std::vector<T> in_parts = start;
  kernel(in_parts.data(), instruction_set, split_into(2 + bytes.choice(6)));
  must_be_equal(whole, in_parts);
}

template <typename T>
void run_conv(Bytes& bytes, const ConvShape& shape, const Shape& inputs, const Shape& factors,
              const Shape& accumulator) {
  const std::vector<T> input = values<T>(elements_of(inputs), 1);
  const std::vector<T> factor = values<T>(elements_of(factors), 2);
  run_twice(bytes, std::vector<core::Accumulator<T>>(elements_of(accumulator)),
            [&](auto* result, auto instruction_set, const auto& parallel_for) {
              cpu::run(ConvCurvature<T>{shape, input.data(), factor.data(), result},
                       instruction_set, parallel_for);
            });
}

void run_conv(Bytes& bytes, const ConvShape& shape, const Shape& inputs, const Shape& factors,
              const Shape& accumulator) {
  const auto run = {run_conv<float>, run_conv<double>, run_conv<core::Half>,
                    run_conv<core::BFloat16>};
  run.begin()[bytes.choice(4)](bytes, shape, inputs, factors, accumulator);
}

// The size of a convolution's output, or what comes to mind where there is none.
std::int64_t output_size(std::int64_t input, std::int64_t kernel, std::int64_t stride,
                         std::int64_t dilation, Padding padding) {
  const auto reach = (static_cast<double>(kernel) - 1) * static_cast<double>(dilation) + 1;
  const double slack = static_cast<double>(input) - (padding == Padding::kValid ? reach : 1);
  if (stride < 1 || slack < 0 || slack > 1e9) return 1;
  return static_cast<std::int64_t>(slack) / stride + 1;
}

// A convolution: shapes that fit each other, or (`wild`) any.
struct Convolution {
  explicit Convolution(Bytes& bytes) {
    wild = bytes.choice(8) == 0;
    const int axes = wild ? bytes.choice(5) : 1 + bytes.choice(3);
    options.strides = bytes.numbers(axes);
    options.dilations = bytes.numbers(wild ? bytes.choice(5) : axes);
    options.padding = static_cast<Padding>(bytes.choice(3));
    options.groups = bytes.number();
    if (wild) {
      inputs = bytes.shape();
      kernel = bytes.shape();
      column = bytes.shape();
      return;
    }
    inputs = {bytes.number()};
    column = inputs;
    for (int i = 0; i < axes; ++i) {
      inputs.push_back(bytes.number());
      kernel.push_back(bytes.number());
      column.push_back(output_size(inputs.back(), kernel.back(), options.strides[i],
                                   options.dilations[i], options.padding));
    }
    const std::int64_t in_group = bytes.number();
    const bool fits =
        options.groups > 0 && in_group > 0 && options.groups < 1000 && in_group < 1000;
    inputs.push_back(fits ? options.groups * in_group : bytes.number());
    kernel.push_back(in_group);
    kernel.push_back(fits ? options.groups * bytes.choice(24) : bytes.number());
    column.push_back(kernel.back());
  }

  // Multiply-adds of one column, and the padded elements of all samples.
  static bool affordable(const ConvShape& shape) {
    double products = static_cast<double>(shape.samples * shape.columns);
    double padded = static_cast<double>(shape.samples * shape.columns * shape.input_channels);
    for (int axis = 0; axis < ConvShape::kAxes; ++axis) {
      products *= static_cast<double>(shape.output_size[axis]);
      products *= static_cast<double>(shape.kernel_size[axis]);
      padded *= static_cast<double>(padded_size(shape, axis));
    }
    products *= static_cast<double>(shape.input_channels / shape.groups);
    return products * static_cast<double>(shape.output_channels) <= kMostWork &&
           padded <= kMostWork;
  }

  bool wild;
  ConvOptions options;
  Shape inputs;
  Shape kernel;
  Shape column;  // of the factors, or the derivative's
};

Shape after(std::int64_t first, Shape rest) {
  rest.insert(rest.begin(), first);
  return rest;
}

// Factors of windows that divide the column's pixels; some that do not.
Shape pooled_factors(Bytes& bytes, const Convolution& conv) {
  if (conv.wild) return bytes.shape();
  Shape factors = after(bytes.number(), conv.column);
  for (std::size_t axis = 2; axis + 1 < factors.size(); ++axis) {
    const std::int64_t window = 1 + bytes.choice(4);
    if (factors[axis] % window == 0) factors[axis] /= window;
  }
  return factors;
}

template <typename T>
void run_pooled(Bytes& bytes, const Convolution& conv, const ConvShape& shape,
                PooledFactors<T> pooled, const Shape& factors) {
  const std::vector<T> factor = values<T>(elements_of(factors), 1);
  const std::vector<T> derivative = values<T>(elements_of(conv.column), 2);
  pooled.values = factor.data();
  pooled.derivative = derivative.data();
  if (bytes.choice(2) == 0) {
    const std::vector<T> input = values<T>(elements_of(conv.inputs), 3);
    run_twice(bytes, std::vector<T>(elements_of(conv.kernel)),
              [&](T* result, auto instruction_set, const auto& parallel_for) {
                cpu::run(ConvCurvature<T>{shape, input.data(), nullptr, result, pooled},
                         instruction_set, parallel_for);
              });
  } else {
    const std::vector<T> kernel = values<T>(elements_of(conv.kernel), 3);
    const double size = static_cast<double>(shape.columns) * elements_of(conv.inputs);
    run_twice(bytes, std::vector<T>(size),
              [&](T* result, auto instruction_set, const auto& parallel_for) {
                cpu::run(ConvInputGradient<T>{shape, kernel.data(), pooled, result},
                         instruction_set, parallel_for);
              });
  }
}

template <typename T, typename Index>
void run_embedding(Bytes& bytes, const EmbeddingShape& shape, const Shape& indices,
                   const Shape& factors, const Shape& accumulator) {
  std::vector<Index> index(elements_of(indices));
  for (Index& value : index) {
    const std::int64_t number = bytes.number();
    value = static_cast<Index>(bytes.choice(8) == 0 ? number : number % shape.vocabulary);
  }
  const std::vector<T> factor = values<T>(elements_of(factors), 1);
  run_twice(bytes, std::vector<core::Accumulator<T>>(elements_of(accumulator)),
            [&](auto* result, auto instruction_set, const auto& parallel_for) {
              cpu::run(EmbeddingCurvature<T, Index>{shape, index.data(), factor.data(), result},
                       instruction_set, parallel_for);
            });
}

template <typename T>
void run_gamma(Bytes& bytes, std::int64_t size) {
  const auto some = [size](unsigned seed) { return values<T>(static_cast<double>(size), seed); };
  const T rate = static_cast<T>(bytes.byte()) / 64;
  const std::vector<T> gradient = some(1);
  const std::vector<T> curvature = some(2);
  // The five states of a step, one behind the other; signs stand apart.
  std::vector<std::vector<T>> state = {some(3), some(4), some(5), some(6), some(7)};
  std::vector<std::int8_t> sign(size, 1);
  const cpu::InstructionSet instruction_set = instruction_set_of(bytes);
  const cpu::ParallelFor parallel_for = split_into(1 + bytes.choice(6));
  bool finite;
  T* const s[] = {state[0].data(), state[1].data(), state[2].data(), state[3].data(),
                  state[4].data()};
  switch (bytes.choice(3)) {
    case 0:
      cpu::run(GammaUpdate<T>{curvature.data(), rate, s[0], sign.data(), s[0], sign.data()}, size,
               instruction_set, parallel_for);
      break;
    case 1:
      cpu::run(
          GammaStep<T>{s[0], s[1], sign.data(), gradient.data(), curvature.data(), rate, &finite},
          size, instruction_set, parallel_for);
      break;
    default:
      cpu::run(GammaMomentumStep<T>{s[0], s[1], s[2], s[3], s[4], gradient.data(), curvature.data(),
                                    rate, T(0.5), &finite},
               size, instruction_set, parallel_for);
  }
}

template <typename T>
void run_select(Bytes& bytes, const std::vector<std::int64_t>& sizes, std::int64_t keep,
                std::int64_t min_keep) {
  const bool packed = bytes.choice(2) == 0;
  const bool with_nan = bytes.choice(4) == 0;
  std::vector<std::vector<T>> scores;
  std::size_t mask_size = 0;
  for (const std::int64_t size : sizes) {
    scores.push_back(values<T>(static_cast<double>(size), bytes.byte()));
    for (T& score : scores.back()) {
      if (!with_nan && core::widen(score) != core::widen(score)) std::memset(&score, 0, sizeof(T));
    }
    mask_size += packed ? (size + 7) / 8 : size;
  }
  // Each mask ends where the next one begins, but for the last.
  run_twice(bytes, std::vector<std::uint8_t>(mask_size),
            [&](std::uint8_t* mask, auto instruction_set, const auto& parallel_for) {
              std::uint8_t* const begin = mask;
              Selection<T> selection{{}, keep, min_keep, packed};
              for (const std::vector<T>& score : scores) {
                const auto size = static_cast<std::int64_t>(score.size());
                selection.tensors.push_back({score.data(), size, mask});
                mask += packed ? (size + 7) / 8 : size;
              }
              if (!cpu::run(selection, instruction_set, parallel_for).empty()) {
                std::fill(begin, mask, std::uint8_t{0});
                return;
              }
              std::int64_t kept = 0;
              for (; mask != begin; --mask) kept += __builtin_popcount(mask[-1]);
              if (kept != keep) {
                std::fprintf(stderr, "%lld are kept, not %lld\n", static_cast<long long>(kept),
                             static_cast<long long>(keep));
                std::abort();
              }
            });
}

template <typename T>
void run_normalisation(Bytes& bytes, const BatchShape& shape) {
  const std::int64_t size = shape.rows * shape.channels;
  std::vector<std::vector<T>> tensors;
  std::vector<std::vector<T>> vectors;
  for (int i = 0; i < 3; ++i) {
    tensors.push_back(values<T>(static_cast<double>(size), bytes.byte()));
    vectors.push_back(values<T>(static_cast<double>(shape.channels), bytes.byte()));
  }
  const T* const x = tensors[0].data();
  const T* const scale = vectors[0].data();
  const std::vector<double> moments =
      values<double>(2 * static_cast<double>(shape.channels), bytes.byte());
  const double epsilon = values<double>(1, bytes.byte())[0];
  // Each result ends where the next one begins, but for the last.
  const int op = bytes.choice(4);
  const auto run = [&](std::int64_t results, const auto& arguments) {
    run_twice(bytes, std::vector<T>(results),
              [&](T* result, auto instruction_set, const auto& parallel_for) {
                cpu::run(shape, arguments(result), instruction_set, parallel_for);
              });
  };
  if (op == 0) {
    std::vector<double> found(2 * shape.channels);
    run(2 * shape.channels, [&](T* result) {
      return BatchMoments<T>{x, result, result + shape.channels, found.data()};
    });
  } else if (op == 1) {
    run(size, [&](T* result) {
      return BatchNorm<T>{epsilon, x, scale, vectors[1].data(), moments.data(), result};
    });
  } else if (op == 2) {
    run(size + 2 * shape.channels, [&](T* result) {
      return BatchNormGradient<T>{epsilon,
                                  tensors[1].data(),
                                  x,
                                  scale,
                                  moments.data(),
                                  result,
                                  result + size,
                                  result + size + shape.channels};
    });
  } else {
    run(2 * size + shape.channels, [&](T* result) {
      return BatchNormSecondGradient<T>{epsilon,
                                        tensors[2].data(),
                                        vectors[1].data(),
                                        vectors[2].data(),
                                        tensors[1].data(),
                                        x,
                                        scale,
                                        moments.data(),
                                        result,
                                        result + size,
                                        result + 2 * size};
    });
  }
}

template <typename T>
void run_pooling(Bytes& bytes, const Windows& windows) {
  const std::int64_t size = windows.samples * windows.height * windows.width * windows.channels;
  const std::int64_t pooled =
      windows.samples * windows.rows() * windows.columns() * windows.channels;
  const std::vector<T> image = values<T>(static_cast<double>(size), bytes.byte());
  const std::vector<T> value = values<T>(static_cast<double>(pooled), bytes.byte());
  // Many of these are not in the window.
  const std::vector<std::uint8_t> positions =
      values<std::uint8_t>(static_cast<double>(pooled), bytes.byte());
  int runs = 0;
  switch (bytes.choice(3)) {
    case 0:
      // The positions begin where the maxima end.
      run_twice(bytes, std::vector<std::uint8_t>(pooled * (sizeof(T) + 1)),
                [&](std::uint8_t* result, auto instruction_set, const auto& parallel_for) {
                  cpu::run(windows,
                           MaxPool<T>{image.data(), reinterpret_cast<T*>(result),
                                      result + pooled * sizeof(T)},
                           instruction_set, parallel_for);
                });
      return;
    case 1:
      run_twice(bytes, std::vector<T>(size),
                [&](T* result, auto instruction_set, const auto& parallel_for) {
                  std::fill_n(result, size, static_cast<T>(++runs));  // all is to be written
                  cpu::run(windows, MaxUnpool<T>{value.data(), positions.data(), result},
                           instruction_set, parallel_for);
                });
      return;
    default:
      run_twice(bytes, std::vector<T>(pooled),
                [&](T* result, auto instruction_set, const auto& parallel_for) {
                  cpu::run(windows, GatherPooled<T>{image.data(), positions.data(), result},
                           instruction_set, parallel_for);
                });
  }
}

// Filters of a sparse convolution, which need not be in order.
struct SparseFilters {
  Window window;
  std::vector<std::int32_t> taps;
  std::vector<std::int32_t> splits;

  SparsePattern pattern() const { return {taps.data(), splits.data()}; }
  Shape taps_shape() const { return {static_cast<std::int64_t>(taps.size())}; }
  Shape splits_shape() const { return {static_cast<std::int64_t>(splits.size())}; }
};

// Whether the window is one.
bool draw_filters(Bytes& bytes, SparseFilters* drawn) {
  const Shape kernel_size = bytes.numbers(2);
  const Shape strides = bytes.numbers(2);
  const Shape dilations = bytes.numbers(2);
  const bool same = bytes.choice(2) == 0;
  if (!check_window(kernel_size, strides, dilations, same, &drawn->window).empty()) return false;
  const int filters = bytes.choice(8);
  std::vector<std::int32_t>& splits = drawn->splits;
  splits.push_back(static_cast<std::int32_t>(bytes.choice(16) == 0));
  for (int f = 0; f < filters; ++f) {
    splits.push_back(splits.back() + bytes.choice(16) - (bytes.choice(64) == 0));
  }
  for (std::int64_t k = 0; k < std::max(0, splits.back()); ++k) {
    drawn->taps.push_back(static_cast<std::int32_t>(bytes.choice(8) == 0 ? bytes.number() : k));
  }
  drawn->taps.shrink_to_fit();
  splits.shrink_to_fit();
  return true;
}

// What a kernel lays out is larger than the image by what a filter spans.
Shape frame_of(const Shape& image, const SparseConvShape& shape, const Window& window) {
  Shape frame = image;
  frame[1] = shape.rows() * window.stride_height + window.span_height();
  frame[2] = shape.columns() * window.stride_width + window.span_width();
  return frame;
}

template <typename T>
void run_sparse_conv_small(Bytes& bytes, const SparseConvShape& shape,
                           const SparsePattern& pattern) {
  const Shape output = small_output(shape);
  const auto size = static_cast<std::size_t>(elements_of(output));
  const std::vector<T> image = values<T>(elements_of(shape.image()) / kBlockLanes, bytes.byte());
  const std::vector<T> weights = values<T>(static_cast<double>(shape.weights), bytes.byte());
  const std::vector<T> scale = values<T>(static_cast<double>(shape.filters), bytes.byte());
  const std::vector<T> bias = values<T>(static_cast<double>(shape.filters), bytes.byte());
  int runs = 0;
  run_twice(bytes, std::vector<T>(size),
            [&](T* result, auto instruction_set, const auto& parallel_for) {
              std::fill_n(result, size, static_cast<T>(++runs));  // all is to be written
              cpu::SharedSmallPlan plan;
              cpu::run(shape,
                       SparseConvSmall<T>{pattern, image.data(), weights.data(), scale.data(),
                                          bias.data(), result},
                       &plan, instruction_set, parallel_for);
            });
}

template <typename T>
void run_sparse_conv(Bytes& bytes, const SparseConvShape& shape, const SparsePattern& pattern) {
  const double size = elements_of(shape.image());
  const double outputs = elements_of(shape.output());
  const std::vector<T> image = values<T>(size, bytes.byte());
  const std::vector<T> output = values<T>(outputs, bytes.byte());
  const std::vector<T> weights = values<T>(static_cast<double>(shape.weights), bytes.byte());
  const std::vector<T> bias = values<T>(static_cast<double>(shape.filters), bytes.byte());
  const bool forward = bytes.choice(2) == 0;
  const auto results = static_cast<std::size_t>(forward ? outputs : shape.weights + shape.filters);
  const int behind = bytes.choice(8);  // the convolution, in inference
  const std::vector<T> scale = values<T>(static_cast<double>(shape.filters), bytes.byte());
  int runs = 0;
  run_twice(bytes, std::vector<T>(results),
            [&](T* result, auto instruction_set, const auto& parallel_for) {
              std::fill_n(result, results, static_cast<T>(++runs));  // all is to be written
              if (forward) {
                cpu::run(shape,
                         SparseConv<T>{pattern, image.data(), weights.data(), bias.data(), result,
                                       behind & 1 ? scale.data() : nullptr,
                                       behind & 2 ? output.data() : nullptr, (behind & 4) != 0},
                         instruction_set, parallel_for);
              } else {
                cpu::run(shape,
                         SparseConvFilterGradient<T>{pattern, image.data(), output.data(), result,
                                                     result + shape.weights},
                         instruction_set, parallel_for);
              }
            });
}

template <typename T>
void run_sparse_conv_input_gradient(Bytes& bytes, const SparseConvShape& shape,
                                    const TransposedPattern& pattern) {
  const std::vector<T> output = values<T>(elements_of(shape.output()), bytes.byte());
  const std::vector<T> weights = values<T>(static_cast<double>(shape.weights), bytes.byte());
  const auto size = static_cast<std::size_t>(elements_of(shape.image()));
  int runs = 0;
  run_twice(
      bytes, std::vector<T>(size), [&](T* result, auto instruction_set, const auto& parallel_for) {
        std::fill_n(result, size, static_cast<T>(++runs));  // all is to be written
        cpu::run(shape, SparseConvInputGradient<T>{pattern, output.data(), weights.data(), result},
                 instruction_set, parallel_for);
      });
}

template <typename T>
void run_block_normalisation(Bytes& bytes, const BlockNormShape& shape) {
  const std::int64_t pixels = shape.blocks() * shape.positions * shape.channels;
  const std::int64_t size = pixels * kBlockLanes;
  std::vector<std::vector<T>> tensors;
  for (int i = 0; i < 3; ++i) {
    tensors.push_back(values<T>(static_cast<double>(size), bytes.byte()));
  }
  const auto channels = static_cast<double>(shape.channels);
  const std::vector<T> scale = values<T>(channels, bytes.byte());
  const std::vector<T> offset = values<T>(channels, bytes.byte());
  const std::vector<double> moments = values<double>(2 * channels, bytes.byte());
  const double epsilon = values<double>(1, bytes.byte())[0];
  const int op = bytes.choice(7);
  const bool relu = op % 3 != 0;
  const T* const residual = op % 3 == 2 ? tensors[2].data() : nullptr;
  const double ceiling = values<double>(1, bytes.byte())[0];
  // Each result ends where the next one begins, but for the last.
  const auto run = [&](std::int64_t results, const auto& arguments) {
    run_twice(bytes, std::vector<T>(results),
              [&](T* result, auto instruction_set, const auto& parallel_for) {
                cpu::run(shape, arguments(result), instruction_set, parallel_for);
              });
  };
  if (op == 6) {
    std::vector<double> found(2 * shape.channels);
    run(2 * shape.channels, [&](T* result) {
      return BlockMoments<T>{tensors[0].data(), result, result + shape.channels, found.data()};
    });
  } else if (op < 3) {
    run(size, [&](T* result) {
      return BlockNorm<T>{epsilon,           relu,           ceiling,
                          tensors[0].data(), residual,       scale.data(),
                          offset.data(),     moments.data(), result};
    });
  } else {
    const std::int64_t both = residual == nullptr ? size : 2 * size;
    run(both + 2 * shape.channels, [&](T* result) {
      return BlockNormGradient<T>{epsilon,
                                  relu,
                                  ceiling,
                                  tensors[1].data(),
                                  tensors[0].data(),
                                  residual,
                                  scale.data(),
                                  offset.data(),
                                  moments.data(),
                                  result,
                                  residual == nullptr ? nullptr : result + size,
                                  result + both,
                                  result + both + shape.channels};
    });
  }
}

template <typename T>
void run_blocks(Bytes& bytes, std::int64_t samples, std::int64_t elements) {
  const std::int64_t blocks = (samples + kBlockLanes - 1) / kBlockLanes * kBlockLanes * elements;
  const bool forward = bytes.choice(2) == 0;
  const std::int64_t plain = samples * elements;
  const std::vector<T> from =
      values<T>(static_cast<double>(forward ? plain : blocks), bytes.byte());
  const auto size = static_cast<std::size_t>(forward ? blocks : plain);
  int runs = 0;
  run_twice(bytes, std::vector<T>(size),
            [&](T* result, auto instruction_set, const auto& parallel_for) {
              std::fill_n(result, size, static_cast<T>(++runs));  // all is to be written
              if (forward) {
                cpu::run(ToBlocks<T>{samples, elements, from.data(), result}, instruction_set,
                         parallel_for);
              } else {
                cpu::run(FromBlocks<T>{samples, elements, from.data(), result}, instruction_set,
                         parallel_for);
              }
            });
}

}  // namespace

#define TARGET(name)                                                                          \
  extern "C" __attribute__((visibility("default"))) int fuzz_##name(const std::uint8_t* data, \
                                                                    std::size_t size)

TARGET(dense) {
  Bytes bytes(data, size);
  Shape inputs = bytes.shape();
  Shape factors;
  Shape accumulator;
  if (bytes.choice(8) == 0 || inputs.empty()) {
    factors = bytes.shape();
    accumulator = bytes.shape();
  } else {
    accumulator = {inputs.back(), bytes.number()};
    factors = after(bytes.number(), inputs);
    factors.back() = accumulator.back();
  }
  ConvShape shape;
  if (!check_dense(inputs, factors, accumulator, &shape).empty()) return 0;
  if (!small({inputs, factors, accumulator}) || !Convolution::affordable(shape)) return 0;
  run_conv(bytes, shape, inputs, factors, accumulator);
  return 0;
}

TARGET(conv) {
  Bytes bytes(data, size);
  const Convolution conv(bytes);
  const Shape factors = conv.wild ? bytes.shape() : after(bytes.number(), conv.column);
  ConvShape shape;
  if (!check_conv(conv.inputs, factors, conv.kernel, conv.options, &shape).empty()) return 0;
  if (!small({conv.inputs, factors, conv.kernel}) || !Convolution::affordable(shape)) return 0;
  run_conv(bytes, shape, conv.inputs, factors, conv.kernel);
  return 0;
}

TARGET(pooled) {
  Bytes bytes(data, size);
  const Convolution conv(bytes);
  const Shape factors = pooled_factors(bytes, conv);
  ConvShape shape;
  std::int64_t windows[ConvShape::kAxes];
  const Shape spatial(conv.inputs.begin() + (conv.inputs.empty() ? 0 : 1),
                      conv.inputs.end() - (conv.inputs.size() < 2 ? 0 : 1));
  const bool backwards = check_pooled_conv_input_gradient(conv.kernel, factors, conv.column,
                                                          spatial, conv.options, &shape, windows)
                             .empty();
  if (!check_pooled_conv(conv.inputs, factors, conv.column, conv.kernel, conv.options, &shape,
                         windows)
           .empty()) {
    return 0;
  }
  if (!small({conv.inputs, factors, conv.column, conv.kernel})) return 0;
  if (!backwards) {
    std::fprintf(stderr, "the two checks of a pooled convolution differ\n");
    std::abort();
  }
  if (!Convolution::affordable(shape)) return 0;
  if (bytes.choice(2) == 0) {
    run_pooled<float>(bytes, conv, shape, {{windows[0], windows[1], windows[2]}, {}, {}}, factors);
  } else {
    run_pooled<double>(bytes, conv, shape, {{windows[0], windows[1], windows[2]}, {}, {}}, factors);
  }
  return 0;
}

TARGET(embedding) {
  Bytes bytes(data, size);
  const Shape indices = bytes.shape();
  Shape factors;
  Shape accumulator;
  if (bytes.choice(8) == 0) {
    factors = bytes.shape();
    accumulator = bytes.shape();
  } else {
    accumulator = {bytes.number(), bytes.number()};
    factors = after(bytes.number(), indices);
    factors.push_back(accumulator.back());
  }
  EmbeddingShape shape;
  if (!check_embedding(indices, factors, accumulator, &shape).empty()) return 0;
  if (!small({indices, factors, accumulator})) return 0;
  const auto run = {run_embedding<float, std::int32_t>, run_embedding<double, std::int64_t>,
                    run_embedding<core::Half, std::int64_t>,
                    run_embedding<core::BFloat16, std::int32_t>};
  run.begin()[bytes.choice(4)](bytes, shape, indices, factors, accumulator);
  return 0;
}

TARGET(gamma) {
  Bytes bytes(data, size);
  const std::int64_t elements = bytes.choice(256) + 256 * bytes.choice(4);
  if (bytes.choice(2) == 0) {
    run_gamma<float>(bytes, elements);
  } else {
    run_gamma<double>(bytes, elements);
  }
  return 0;
}

TARGET(select) {
  Bytes bytes(data, size);
  Shape sizes = bytes.shape();
  for (std::int64_t& size : sizes) size &= 0xffff;  // of arrays that are there
  const std::int64_t keep = bytes.number();
  const std::int64_t min_keep = bytes.number();
  if (!check_selection(sizes, keep, min_keep).empty()) return 0;
  const auto run = {run_select<float>, run_select<double>, run_select<core::Half>,
                    run_select<core::BFloat16>};
  run.begin()[bytes.choice(4)](bytes, sizes, keep, min_keep);
  return 0;
}

TARGET(normalisation) {
  Bytes bytes(data, size);
  const std::int64_t rows = bytes.number();
  const std::int64_t channels = bytes.number();
  // So many are several of the blocks that are summed in one go.
  constexpr double kSeveralBlocks = 1 << 17;
  if (rows < 1 || channels < 1 || elements_of({rows, channels}) > kSeveralBlocks) return 0;
  if (bytes.choice(2) == 0) {
    run_normalisation<float>(bytes, {rows, channels});
  } else {
    run_normalisation<double>(bytes, {rows, channels});
  }
  return 0;
}

TARGET(block_normalisation) {
  Bytes bytes(data, size);
  const std::int64_t samples = bytes.number();
  Shape tensor = bytes.numbers(bytes.choice(5));
  if (bytes.choice(8) != 0) {  // what fits
    tensor.insert(tensor.begin(), samples < 1 ? samples : blocks_of(samples & 0xff));
    tensor.push_back(kBlockLanes);
  }
  BlockNormShape shape;
  const Shape channels = {tensor.size() < 2 ? 0 : tensor[tensor.size() - 2]};
  if (!check_block_norm({{"x", tensor}}, samples, {{"scale", channels}}, nullptr, &shape).empty()) {
    return 0;
  }
  if (!small({tensor})) return 0;
  if (bytes.choice(2) == 0) {
    run_block_normalisation<float>(bytes, shape);
  } else {
    run_block_normalisation<double>(bytes, shape);
  }
  return 0;
}

TARGET(pooling) {
  Bytes bytes(data, size);
  const Shape image = bytes.numbers(4);
  const Windows windows{image[0], image[1], image[2], image[3], bytes.number(), bytes.number()};
  if (!check(windows).empty()) return 0;
  if (image[0] < 0 || image[3] < 1 || !small({image})) return 0;
  if (bytes.choice(2) == 0) {
    run_pooling<float>(bytes, windows);
  } else {
    run_pooling<double>(bytes, windows);
  }
  return 0;
}

TARGET(sparse_conv) {
  Bytes bytes(data, size);
  Shape image = bytes.numbers(4);
  image.push_back(kBlockLanes);
  SparseFilters filters;
  SparseConvShape shape;
  if (!draw_filters(bytes, &filters) ||
      !check_filters(image, filters.taps_shape(), filters.splits_shape(), filters.pattern(),
                     filters.window, &shape)
           .empty()) {
    return 0;
  }
  if (image[0] < 0) return 0;  // no tensor's
  if (!small({image, shape.output(), frame_of(image, shape, filters.window)})) return 0;
  if (bytes.choice(2) == 0) {
    run_sparse_conv<float>(bytes, shape, filters.pattern());
  } else {
    run_sparse_conv<double>(bytes, shape, filters.pattern());
  }
  return 0;
}

TARGET(sparse_conv_small) {
  Bytes bytes(data, size);
  const Shape image = bytes.numbers(4);
  SparseFilters filters;
  SparseConvShape shape;
  if (!draw_filters(bytes, &filters) ||
      !check_small_filters(image, filters.taps_shape(), filters.splits_shape(), filters.pattern(),
                           filters.window, &shape)
           .empty()) {
    return 0;
  }
  if (image[0] < 0) return 0;  // no tensor's
  if (!small({image, small_output(shape), frame_of(image, shape, filters.window)})) return 0;
  if (bytes.choice(2) == 0) {
    run_sparse_conv_small<float>(bytes, shape, filters.pattern());
  } else {
    run_sparse_conv_small<double>(bytes, shape, filters.pattern());
  }
  return 0;
}

TARGET(sparse_conv_input_gradient) {
  Bytes bytes(data, size);
  Shape image = bytes.numbers(4);
  image.push_back(kBlockLanes);
  Window window;
  const Shape kernel_size = bytes.numbers(2);
  const Shape strides = bytes.numbers(2);
  const Shape dilations = bytes.numbers(2);
  if (!check_window(kernel_size, strides, dilations, bytes.choice(2) == 0, &window).empty()) {
    return 0;
  }
  if (image[0] < 0 || image[3] < 0 || image[3] > 8) return 0;
  const std::int64_t filters = bytes.choice(8);
  std::vector<std::int32_t> splits{static_cast<std::int32_t>(bytes.choice(16) == 0)};
  for (std::int64_t c = 0; c < image[3]; ++c) {
    splits.push_back(splits.back() + bytes.choice(16) - (bytes.choice(64) == 0));
  }
  std::vector<std::int32_t> taps;
  std::vector<std::int32_t> order;
  for (std::int32_t k = 0; k < std::max(0, splits.back()); ++k) {
    taps.push_back(static_cast<std::int32_t>(bytes.choice(8) == 0 ? bytes.number() : k));
    order.push_back(static_cast<std::int32_t>(bytes.choice(8) == 0 ? bytes.number() : k));
  }
  taps.shrink_to_fit();
  order.shrink_to_fit();
  splits.shrink_to_fit();
  const auto count = static_cast<std::int64_t>(taps.size());
  const TransposedPattern pattern{taps.data(), splits.data(), order.data()};
  SparseConvShape shape;
  if (!check_transposed(image, filters, {count}, {static_cast<std::int64_t>(splits.size())},
                        {count}, pattern, window, &shape)
           .empty()) {
    return 0;
  }
  const Shape frame{image[0], image[1] + 2 * window.span_height(),
                    image[2] + 2 * window.span_width(), filters, kBlockLanes};
  if (!small({image, shape.output(), frame})) return 0;
  if (bytes.choice(2) == 0) {
    run_sparse_conv_input_gradient<float>(bytes, shape, pattern);
  } else {
    run_sparse_conv_input_gradient<double>(bytes, shape, pattern);
  }
  return 0;
}

TARGET(blocks) {
  Bytes bytes(data, size);
  const std::int64_t samples = bytes.byte();
  const std::int64_t elements = bytes.byte();
  if (bytes.choice(2) == 0) {
    run_blocks<float>(bytes, samples, elements);
  } else {
    run_blocks<double>(bytes, samples, elements);
  }
  return 0;
}
