// What the tests of convolutions share: comparisons with float64, and pooled ones to try.
#pragma once

#include <algorithm>

#include "cpu/curvature.h"
#include "emulated.h"

namespace prospr::tests {

template <typename T>
const char* name_of() {
  return std::is_same_v<T, float>        ? "float"
         : std::is_same_v<T, double>     ? "double"
         : std::is_same_v<T, core::Half> ? "half"
                                         : "bfloat16";
}

inline std::int64_t product(const Shape& shape) {
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
  for (std::int64_t i = 0; i < got.size(); ++i) {
    const double error = std::abs(static_cast<double>(got[i]) - wanted[i]);
    if (error <= tolerance * scale[i]) continue;  // and not where either is no number
    expect(false, what + ": element " + std::to_string(i) + " is " + std::to_string(got[i]) +
                      ", not " + std::to_string(wanted[i]));
    return;
  }
}

struct Conv {
  const char* name;
  Shape inputs;
  std::int64_t columns;
  Shape kernel;  // [spatial..., channels / groups, outputs]
  ConvOptions options;
};

// The output's spatial axes.
inline Shape output_size(const Conv& conv) {
  Shape result;
  for (std::size_t axis = 0; axis < conv.options.strides.size(); ++axis) {
    const std::int64_t size = conv.inputs[axis + 1];
    const std::int64_t reach = (conv.kernel[axis] - 1) * conv.options.dilations[axis] + 1;
    const bool valid = conv.options.padding == Padding::kValid;
    result.push_back(((valid ? size - reach : size - 1) / conv.options.strides[axis]) + 1);
  }
  return result;
}

struct PooledConv {
  Conv conv;
  Shape windows;  // on each spatial axis
};

inline std::vector<PooledConv> pooled_convolutions() {
  return {
      // More input pixels than a tile has rows, odd numbers of channels.
      {{"same", {2, 6, 8, 5}, 3, {3, 3, 5, 18}, {{1, 1}, {1, 1}, Padding::kSame, 1}}, {3, 4}},
      // More channels and outputs than a tile, windows on one axis.
      {{"wide", {1, 3, 8, 37}, 2, {2, 2, 37, 67}, {{1, 1}, {1, 1}, Padding::kSame, 1}}, {3, 2}},
      // Strides that skip inputs, and dilation.
      {{"strides", {1, 11, 14, 3}, 3, {2, 3, 3, 7}, {{3, 2}, {1, 2}, Padding::kValid, 1}}, {2, 5}},
      {{"stride beyond the kernel", {2, 35, 2}, 2, {2, 2, 4}, {{3}, {1}, Padding::kSame, 1}}, {4}},
      {{"causal", {2, 40, 3}, 2, {4, 3, 33}, {{1}, {5}, Padding::kCausal, 1}}, {8}},
      {{"3-D, 2 groups",
        {1, 4, 4, 6, 4},
        5,
        {2, 2, 3, 2, 10},
        {{2, 1, 1}, {1, 1, 1}, Padding::kSame, 2}},
       {2, 2, 3}},
      {{"every channel a group",
        {2, 6, 6, 5},
        2,
        {3, 3, 1, 10},
        {{1, 1}, {1, 2}, Padding::kSame, 5}},
       {2, 3}},
      {{"one of everything", {1, 1, 1, 1}, 1, {1, 1, 1, 1}, {{1, 1}, {1, 1}, Padding::kValid, 1}},
       {1, 1}},
      // Few pixels and more columns: pairs.
      {{"4 pixels", {5, 2, 2, 9}, 10, {3, 3, 9, 7}, {{1, 1}, {1, 1}, Padding::kSame, 1}}, {1, 1}},
      {{"9 pixels", {2, 3, 3, 4}, 12, {3, 3, 4, 6}, {{1, 1}, {1, 1}, Padding::kSame, 1}}, {1, 3}},
      {{"one pixel", {9, 1, 20}, 4, {1, 20, 14}, {{1}, {1}, Padding::kValid, 1}}, {1}},
  };
}

struct PooledShapes {
  Shape factors;
  Shape derivative;
};

inline PooledShapes shapes_of(const PooledConv& pooled) {
  const Conv& conv = pooled.conv;
  PooledShapes shapes{{conv.columns, conv.inputs[0]}, {conv.inputs[0]}};
  const Shape output = output_size(conv);
  shapes.factors.insert(shapes.factors.end(), pooled.windows.begin(), pooled.windows.end());
  shapes.derivative.insert(shapes.derivative.end(), output.begin(), output.end());
  shapes.factors.push_back(conv.kernel.back());
  shapes.derivative.push_back(conv.kernel.back());
  return shapes;
}

template <typename T>
Array<T> mostly_zero(Random& random, std::int64_t size) {
  Array<T> values = random.normal<T>(size);
  for (std::int64_t i = 0; i < size; ++i) {
    if (random.below(10) < 7) values[i] = T{};
  }
  return values;
}

// Makes the factors infinite of windows and outputs whose derivative is zero; whether there are
// any.
template <typename T>
bool spoil_unused(const ConvShape& shape, const std::int64_t windows[], const Array<T>& derivative,
                  Array<T>* factors) {
  if (derivative.size() == 0) return false;
  const std::int64_t* const size = shape.output_size;
  const std::int64_t outputs = shape.output_channels;
  const std::int64_t in_column = shape.samples * windows[0] * windows[1] * windows[2] * outputs;
  std::vector<bool> used(static_cast<std::size_t>(in_column));
  for (std::int64_t i = 0; i < derivative.size(); ++i) {
    const std::int64_t z = i / outputs / size[2] / size[1] % size[0] * windows[0] / size[0];
    const std::int64_t y = i / outputs / size[2] % size[1] * windows[1] / size[1];
    const std::int64_t x = i / outputs % size[2] * windows[2] / size[2];
    const std::int64_t sample = i / outputs / size[2] / size[1] / size[0];
    const std::int64_t window = ((sample * windows[0] + z) * windows[1] + y) * windows[2] + x;
    if (core::widen(derivative[i]) != 0) used[window * outputs + i % outputs] = true;
  }
  bool any = false;
  for (std::int64_t i = 0; i < factors->size(); ++i) {
    if (used[i % in_column]) continue;
    (*factors)[i] = Random::narrow<T>(std::numeric_limits<double>::infinity());
    any = true;
  }
  return any;
}

}  // namespace prospr::tests
