// Diagonals of the (generalised Gauss-Newton) Hessian, from the inputs of a layer and the gradient
// factors at its output.
//
//   curvature[k, o] += sum over samples n and columns c of
//                      (sum over positions t of patch[n, t, k] * factors[c, n, t, o])^2
//
// A dense layer's patch is its input; an embedding's is one-hot. No tensor of a sample's products
// is ever stored. T is float, double, core::Half or core::BFloat16; sums are kept in
// core::Accumulator<T>.
#pragma once

#include <cstdint>
#include <string>

#include "core/half.h"
#include "core/macros.h"
#include "kernels/shape.h"

namespace prospr {

enum class Padding { kValid, kSame, kCausal };

// A convolution over three axes; unused leading ones have size, kernel, stride and dilation 1.
struct ConvShape {
  static constexpr int kAxes = 3;
  std::int64_t samples;
  std::int64_t columns;
  std::int64_t groups;
  std::int64_t input_channels;   // of all groups
  std::int64_t output_channels;  // of all groups
  std::int64_t input_size[kAxes];
  std::int64_t output_size[kAxes];
  std::int64_t kernel_size[kAxes];
  std::int64_t strides[kAxes];
  std::int64_t dilations[kAxes];
  std::int64_t padding_before[kAxes];  // zeros before the first input
};

// The size of an axis of the inputs with the zeros around them.
PROSPR_HD std::int64_t padded_size(const ConvShape& shape, int axis) {
  const std::int64_t reached = (shape.output_size[axis] - 1) * shape.strides[axis] +
                               (shape.kernel_size[axis] - 1) * shape.dilations[axis] + 1;
  const std::int64_t given = shape.padding_before[axis] + shape.input_size[axis];
  return reached > given ? reached : given;
}

// Whether every channel is a group of its own; both devices have separate loops for that.
PROSPR_HD bool is_depthwise(const ConvShape& shape) {
  return shape.groups > 1 && shape.groups == shape.input_channels;
}

struct EmbeddingShape {
  std::int64_t samples;
  std::int64_t positions;
  std::int64_t columns;
  std::int64_t vocabulary;
  std::int64_t outputs;
};

struct ConvOptions {
  std::vector<std::int64_t> strides;
  std::vector<std::int64_t> dilations;
  Padding padding;
  std::int64_t groups;
};

// Each checks the shapes of inputs (or indices), factors and accumulator against each other.
// Returns what is wrong with them, or nothing and fills in `result`.
std::string check_dense(const Shape& inputs, const Shape& factors, const Shape& accumulator,
                        ConvShape* result);
std::string check_conv(const Shape& inputs, const Shape& factors, const Shape& accumulator,
                       const ConvOptions& options, ConvShape* result);
std::string check_embedding(const Shape& indices, const Shape& factors, const Shape& accumulator,
                            EmbeddingShape* result);
// Each does the same for pooled factors, and fills in their spatial axes, `windows`.
std::string check_pooled_conv(const Shape& inputs, const Shape& factors, const Shape& derivative,
                              const Shape& accumulator, const ConvOptions& options,
                              ConvShape* result, std::int64_t windows[ConvShape::kAxes]);
std::string check_pooled_conv_input_gradient(const Shape& kernel, const Shape& factors,
                                             const Shape& derivative, const Shape& input_size,
                                             const ConvOptions& options, ConvShape* result,
                                             std::int64_t windows[ConvShape::kAxes]);

// The shape of ConvInputGradient::gradient, input_size being the axes that there are.
Shape gradient_shape(const ConvShape& shape, const Shape& input_size);

// Gradient factors at a convolution's output, as those after a pooling whose windows tile it: each
// pixel's is that of its window times a derivative, which after a max-pooling is mostly zero.
template <typename T>
struct PooledFactors {
  std::int64_t windows[ConvShape::kAxes];  // on each axis; divides output_size
  const T* values;                         // [columns, samples, windows..., output_channels]
  const T* derivative;                     // [samples, output_size..., output_channels]
};

template <typename T>
struct ConvCurvature {
  ConvShape shape;                  // a dense layer is a convolution of kernel size 1
  const T* inputs;                  // [samples, input_size..., input_channels]
  const T* factors;                 // [columns, samples, output_size..., output_channels], or null:
  core::Accumulator<T>* curvature;  // [kernel_size..., input_channels / groups, output_channels]
  PooledFactors<T> pooled = {};     // what stands for factors that are null
};

// gradient = the convolution's vector-Jacobian product with the factors, for float and double.
template <typename T>
struct ConvInputGradient {
  ConvShape shape;
  const T* kernel;  // [kernel_size..., input_channels / groups, output_channels]
  PooledFactors<T> factors;
  T* gradient;  // [columns, samples, input_size..., input_channels], overwritten
};

template <typename T, typename Index>
struct EmbeddingCurvature {
  EmbeddingShape shape;
  const Index* indices;             // [samples, positions], each in [0, vocabulary)
  const T* factors;                 // [columns, samples, positions, outputs]
  core::Accumulator<T>* curvature;  // [vocabulary, outputs]
};

}  // namespace prospr
