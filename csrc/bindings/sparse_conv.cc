#include "cpu/sparse_conv.h"

#include "bindings/native.h"

namespace prospr::bindings {
namespace {

using Pair = std::pair<std::int64_t, std::int64_t>;
using Indices = Array<std::int32_t>;

// The filters on images of a shape, checked.
SparseConvShape filters_on(const Shape& image, const Indices& taps, const Indices& splits,
                           const Pair& kernel_size) {
  SparseConvShape shape;
  raise_if(check_filters(image, shape_of("taps", taps), shape_of("splits", splits),
                         {taps.data(), splits.data()}, {kernel_size.first, kernel_size.second},
                         &shape));
  return shape;
}

void check(const char* name, const py::array& array, const Shape& wanted) {
  raise_if(check_shape(name, shape_of(name, array), wanted));
}

template <typename T>
Array<T> sparse_conv(const Array<T>& image, const Array<T>& weights, const Array<T>& bias,
                     const Indices& taps, const Indices& splits, const Pair& kernel_size,
                     int threads, const std::string& instruction_set) {
  const auto shape = filters_on(shape_of("image", image), taps, splits, kernel_size);
  check("weights", weights, {shape.weights});
  check("bias", bias, {shape.filters});
  Array<T> output(shape.output());
  cpu::run(shape, {taps.data(), splits.data()},
           SparseConv<T>{image.data(), weights.data(), bias.data(), output.mutable_data()},
           instruction_set_or_best(instruction_set), split_into(threads));
  return output;
}

template <typename T>
Array<T> sparse_conv_input_gradient(const Array<T>& output_gradient, const Array<T>& weights,
                                    const Indices& taps, const Indices& splits,
                                    const Pair& kernel_size, std::int64_t channels, int threads,
                                    const std::string& instruction_set) {
  raise_if(check_pair("kernel_size", {kernel_size.first, kernel_size.second}));
  const Shape output = shape_of("output_gradient", output_gradient);
  raise_if(check_axes("output_gradient", output, 4));
  const Shape image{output[0] + kernel_size.first - 1, output[1] + kernel_size.second - 1, channels,
                    output[3]};
  const auto shape = filters_on(image, taps, splits, kernel_size);
  check("output_gradient", output_gradient, shape.output());
  check("weights", weights, {shape.weights});
  Array<T> image_gradient(image);
  cpu::run(shape, {taps.data(), splits.data()},
           SparseConvInputGradient<T>{output_gradient.data(), weights.data(),
                                      image_gradient.mutable_data()},
           instruction_set_or_best(instruction_set), split_into(threads));
  return image_gradient;
}

template <typename T>
std::pair<Array<T>, Array<T>> sparse_conv_filter_gradient(const Array<T>& image,
                                                          const Array<T>& output_gradient,
                                                          const Indices& taps,
                                                          const Indices& splits,
                                                          const Pair& kernel_size, int threads,
                                                          const std::string& instruction_set) {
  const auto shape = filters_on(shape_of("image", image), taps, splits, kernel_size);
  check("output_gradient", output_gradient, shape.output());
  Array<T> weights_gradient(shape.weights);
  Array<T> bias_gradient(shape.filters);
  cpu::run(
      shape, {taps.data(), splits.data()},
      SparseConvFilterGradient<T>{image.data(), output_gradient.data(),
                                  weights_gradient.mutable_data(), bias_gradient.mutable_data()},
      instruction_set_or_best(instruction_set), split_into(threads));
  return {weights_gradient, bias_gradient};
}

template <typename T>
void define(py::module_& module) {
  using namespace py::literals;
  module.def("sparse_conv", &sparse_conv<T>, "image"_a.noconvert(), "weights"_a.noconvert(),
             "bias"_a.noconvert(), "taps"_a.noconvert(), "splits"_a.noconvert(), "kernel_size"_a,
             "threads"_a = 1, "instruction_set"_a = "");
  module.def("sparse_conv_input_gradient", &sparse_conv_input_gradient<T>,
             "output_gradient"_a.noconvert(), "weights"_a.noconvert(), "taps"_a.noconvert(),
             "splits"_a.noconvert(), "kernel_size"_a, "channels"_a, "threads"_a = 1,
             "instruction_set"_a = "");
  module.def("sparse_conv_filter_gradient", &sparse_conv_filter_gradient<T>, "image"_a.noconvert(),
             "output_gradient"_a.noconvert(), "taps"_a.noconvert(), "splits"_a.noconvert(),
             "kernel_size"_a, "threads"_a = 1, "instruction_set"_a = "");
}

}  // namespace

void define_sparse_conv(py::module_& module) {
  define<float>(module);
  define<double>(module);
}

}  // namespace prospr::bindings
