#include "kernels/curvature.h"

#include <algorithm>
#include <limits>
#include <utility>

namespace prospr {
namespace {

// The checks that all contractions share.
std::string check_sizes(const std::string& inputs_name, const Shape& inputs, const Shape& factors,
                        const Shape& accumulator) {
  const std::pair<const std::string, const Shape&> arrays[] = {
      {inputs_name, inputs}, {"factors", factors}, {"accumulator", accumulator}};
  for (const auto& [name, shape] : arrays) {
    if (const std::string wrong = check_not_empty(name, shape); !wrong.empty()) return wrong;
  }
  return "";
}

// `factors` without its last axis must be [columns, leading...].
bool leads(const Shape& leading, const Shape& factors) {
  return factors.size() == leading.size() + 2 &&
         std::equal(leading.begin(), leading.end(), factors.begin() + 1);
}

// One axis of a convolution: its output size and the zeros before its first input.
struct Axis {
  std::int64_t output_size;
  std::int64_t padding_before;
};

// `extent` is the reach of the kernel, dilation included.
Axis axis_of(std::int64_t input_size, std::int64_t extent, std::int64_t stride, Padding padding) {
  switch (padding) {
    case Padding::kSame: {
      const std::int64_t output_size = (input_size - 1) / stride + 1;
      const std::int64_t needed = (output_size - 1) * stride + extent - input_size;
      return {output_size, std::max<std::int64_t>(needed, 0) / 2};
    }
    case Padding::kCausal:
      return {(input_size - 1) / stride + 1, extent - 1};
    default:
      return {input_size < extent ? 0 : (input_size - extent) / stride + 1, 0};
  }
}

// `column` is the derivative's shape.
std::string check_pooled_factors(const Shape& factors, const Shape& derivative, const Shape& column,
                                 ConvShape* result, std::int64_t windows[ConvShape::kAxes]) {
  if (const std::string wrong = check_not_empty("factors", factors); !wrong.empty()) return wrong;
  if (derivative != column) return must_be("derivative", derivative, text(column));
  constexpr std::int64_t kLargest = std::numeric_limits<std::int32_t>::max();
  if (product(column.begin() + 1, column.end() - 1) > kLargest) {
    return "derivative has shape " + text(column) + "; it may have at most " +
           std::to_string(kLargest) + " pixels";
  }
  bool divides = factors.size() == column.size() + 1 && factors[1] == column.front() &&
                 factors.back() == column.back();
  std::fill_n(windows, ConvShape::kAxes, 1);
  const std::size_t axes = column.size() - 2;
  for (std::size_t i = 0; divides && i < axes; ++i) {
    windows[ConvShape::kAxes - axes + i] = factors[i + 2];
    divides = column[i + 1] % factors[i + 2] == 0;
  }
  if (!divides) {
    return must_be("factors", factors,
                   "[columns, samples, spatial axes that divide those of the output, outputs], the "
                   "output's shape being " +
                       text(column));
  }
  result->columns = factors.front();
  return "";
}

// Fills in all of `result` but the columns, and the shape of one column of the factors. `kernel` is
// the kernel's shape; the argument that has it is called `kernel_name`.
std::string check_geometry(const Shape& inputs, const std::string& kernel_name, const Shape& kernel,
                           const ConvOptions& options, ConvShape* result, Shape* column) {
  const std::size_t axes = options.strides.size();
  if (axes < 1 || axes > ConvShape::kAxes || options.dilations.size() != axes) {
    return "strides " + text(options.strides) + " and dilations " + text(options.dilations) +
           " must both have 1, 2 or 3 elements, one for each spatial axis";
  }
  constexpr std::int64_t kLargest = std::numeric_limits<std::int32_t>::max();
  for (const auto& [name, values] :
       {std::pair<const char*, const Shape&>("strides", options.strides),
        {"dilations", options.dilations}}) {
    for (const std::int64_t value : values) {
      if (value < 1 || value > kLargest) {
        return std::string(name) + " are " + text(values) +
               "; each must be at least 1 and at most " + std::to_string(kLargest);
      }
    }
  }
  if (options.padding == Padding::kCausal && axes != 1) {
    return "causal padding has one spatial axis, not " + std::to_string(axes);
  }
  if (inputs.size() != axes + 2) {
    return must_be("inputs", inputs,
                   "[samples, " + std::to_string(axes) + " spatial axes, channels]");
  }
  if (kernel.size() != axes + 2) {
    return must_be(kernel_name, kernel,
                   "[" + std::to_string(axes) + " kernel axes, channels / groups, outputs]");
  }
  std::string empty = check_not_empty("inputs", inputs);
  if (empty.empty()) empty = check_not_empty(kernel_name, kernel);
  if (!empty.empty()) return empty;

  const std::int64_t channels = inputs.back();
  const std::int64_t outputs = kernel.back();
  if (options.groups < 1 || channels % options.groups != 0 || outputs % options.groups != 0) {
    return "groups is " + std::to_string(options.groups) + "; it must divide both the " +
           std::to_string(channels) + " input channels and the " + std::to_string(outputs) +
           " output channels";
  }
  if (kernel[axes] != channels / options.groups) {
    return kernel_name + " has shape " + text(kernel) + "; its last axis but one must be the " +
           std::to_string(channels) + " input channels divided by " +
           std::to_string(options.groups) + " groups";
  }

  *result = {inputs.front(), 1,         options.groups, channels,  outputs,  {1, 1, 1},
             {1, 1, 1},      {1, 1, 1}, {1, 1, 1},      {1, 1, 1}, {0, 0, 0}};
  Shape leading = {inputs.front()};
  auto padded_elements = static_cast<double>(channels);
  for (std::size_t i = 0; i < axes; ++i) {
    const std::size_t axis = ConvShape::kAxes - axes + i;
    const std::int64_t input_size = inputs[i + 1];
    if (std::max(input_size, kernel[i]) > kLargest) {
      return "inputs has shape " + text(inputs) + " and the kernel " + text(kernel) +
             "; spatial axes must be at most " + std::to_string(kLargest);
    }
    const std::int64_t reach = (kernel[i] - 1) * options.dilations[i] + 1;
    const auto [output_size, before] =
        axis_of(input_size, reach, options.strides[i], options.padding);
    if (output_size < 1) {
      return "inputs has " + std::to_string(input_size) + " elements on spatial axis " +
             std::to_string(i) + ", fewer than the " + std::to_string(reach) +
             " that a kernel of size " + std::to_string(kernel[i]) + " and dilation " +
             std::to_string(options.dilations[i]) + " covers";
    }
    result->input_size[axis] = input_size;
    result->output_size[axis] = output_size;
    result->kernel_size[axis] = kernel[i];
    result->strides[axis] = options.strides[i];
    result->dilations[axis] = options.dilations[i];
    result->padding_before[axis] = before;
    leading.push_back(output_size);
    padded_elements *= static_cast<double>(padded_size(*result, axis));
  }
  // A sample is copied with its padding, so an absurd dilation would ask for absurd memory.
  constexpr double kMostPadded = 1 << 26;
  const auto sample_size = static_cast<double>(product(inputs.begin() + 1, inputs.end()));
  if (padded_elements > kMostPadded + 4 * sample_size) {
    return "dilations " + text(options.dilations) + " with a kernel of shape " + text(kernel) +
           " would pad a sample of inputs, " + text(inputs) + ", with too many zeros";
  }
  leading.push_back(outputs);
  *column = leading;
  return "";
}

}  // namespace

std::string check_dense(const Shape& inputs, const Shape& factors, const Shape& accumulator,
                        ConvShape* result) {
  if (inputs.size() < 2) return must_be("inputs", inputs, "[samples, ..., inputs]");
  const Shape leading(inputs.begin(), inputs.end() - 1);
  if (!leads(leading, factors)) {
    return must_be("factors", factors,
                   "[columns, samples, ..., outputs], the samples and middle axes being those of "
                   "inputs, " +
                       text(inputs));
  }
  if (accumulator != Shape{inputs.back(), factors.back()}) {
    return must_be("accumulator", accumulator, text({inputs.back(), factors.back()}));
  }
  *result = {inputs.front(),
             factors.front(),
             1,
             inputs.back(),
             factors.back(),
             {1, 1, product(leading.begin() + 1, leading.end())},
             {1, 1, product(leading.begin() + 1, leading.end())},
             {1, 1, 1},
             {1, 1, 1},
             {1, 1, 1},
             {0, 0, 0}};
  return check_sizes("inputs", inputs, factors, accumulator);
}

std::string check_conv(const Shape& inputs, const Shape& factors, const Shape& accumulator,
                       const ConvOptions& options, ConvShape* result) {
  Shape column;
  std::string wrong = check_geometry(inputs, "accumulator", accumulator, options, result, &column);
  if (wrong.empty()) wrong = check_not_empty("factors", factors);
  if (!wrong.empty()) return wrong;
  if (factors.size() != column.size() + 1 ||
      !std::equal(column.begin(), column.end(), factors.begin() + 1)) {
    return "factors has shape " + text(factors) + "; after the columns it must be " + text(column);
  }
  result->columns = factors.front();
  return "";
}

std::string check_pooled_conv(const Shape& inputs, const Shape& factors, const Shape& derivative,
                              const Shape& accumulator, const ConvOptions& options,
                              ConvShape* result, std::int64_t windows[ConvShape::kAxes]) {
  Shape column;
  const std::string wrong =
      check_geometry(inputs, "accumulator", accumulator, options, result, &column);
  return wrong.empty() ? check_pooled_factors(factors, derivative, column, result, windows) : wrong;
}

std::string check_pooled_conv_input_gradient(const Shape& kernel, const Shape& factors,
                                             const Shape& derivative, const Shape& input_size,
                                             const ConvOptions& options, ConvShape* result,
                                             std::int64_t windows[ConvShape::kAxes]) {
  if (factors.size() < 3) return must_be("factors", factors, "[columns, samples, ..., outputs]");
  if (kernel.size() < 2)
    return must_be("kernel", kernel, "[kernel..., channels / groups, outputs]");
  Shape inputs = {factors[1]};
  inputs.insert(inputs.end(), input_size.begin(), input_size.end());
  const bool divided = options.groups > 0 && options.groups <= kernel.back();
  const Shape channels = {kernel[kernel.size() - 2], divided ? options.groups : 1};
  inputs.push_back(product(channels.begin(), channels.end()));
  Shape column;
  std::string wrong = check_geometry(inputs, "kernel", kernel, options, result, &column);
  if (wrong.empty()) wrong = check_pooled_factors(factors, derivative, column, result, windows);
  if (!wrong.empty()) return wrong;
  inputs.push_back(factors.front());
  if (product(inputs.begin(), inputs.end()) == std::numeric_limits<std::int64_t>::max()) {
    return "input_size is " + text(input_size) + ", too large for any tensor";
  }
  return "";
}

Shape gradient_shape(const ConvShape& shape, const Shape& input_size) {
  Shape result = {shape.columns, shape.samples};
  result.insert(result.end(), input_size.begin(), input_size.end());
  result.push_back(shape.input_channels);
  return result;
}

std::string check_embedding(const Shape& indices, const Shape& factors, const Shape& accumulator,
                            EmbeddingShape* result) {
  if (indices.empty()) return must_be("indices", indices, "[samples, ...]");
  if (!leads(indices, factors)) {
    return must_be("factors", factors,
                   "[columns, samples, ..., outputs], the samples and middle axes being those of "
                   "indices, " +
                       text(indices));
  }
  if (accumulator.size() != 2 || accumulator.back() != factors.back()) {
    return must_be("accumulator", accumulator,
                   "[vocabulary, " + std::to_string(factors.back()) + "]");
  }
  *result = {indices.front(), product(indices.begin() + 1, indices.end()), factors.front(),
             accumulator.front(), accumulator.back()};
  return check_sizes("indices", indices, factors, accumulator);
}

}  // namespace prospr
