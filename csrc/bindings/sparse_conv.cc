#include "cpu/sparse_conv.h"

#include <limits>
#include <stdexcept>

#include "bindings/native.h"

namespace prospr::bindings {
namespace {

using Pair = std::pair<std::int64_t, std::int64_t>;
using Indices = Array<std::int32_t>;
using Extents = std::vector<py::ssize_t>;

void check_shape(const char* name, const py::array& array, const Extents& expected) {
  check_aligned(name, array);
  if (Extents(array.shape(), array.shape() + array.ndim()) == expected) return;
  throw std::invalid_argument(std::string(name) + " has shape " + shape_of(array) +
                              ", which does not fit the filters");
}

void check_axes(const char* name, const py::array& array, int axes) {
  check_aligned(name, array);
  if (array.ndim() == axes) return;
  throw std::invalid_argument(std::string(name) + " has shape " + shape_of(array) +
                              "; it must have " + std::to_string(axes) +
                              (axes == 1 ? " axis" : " axes"));
}

void check_kernel_size(const Pair& size) {
  constexpr std::int64_t kMost = std::numeric_limits<std::int32_t>::max();
  if (size.first > 0 && size.first <= kMost && size.second > 0 && size.second <= kMost) return;
  throw std::invalid_argument("a filter of " + std::to_string(size.first) + " x " +
                              std::to_string(size.second) +
                              " was given; both must be positive 32-bit numbers");
}

// The filters on images of a shape, checked.
cpu::SparseConvShape shape_below(const Extents& image, const Indices& taps, const Indices& splits,
                                 const Pair& kernel_size) {
  check_axes("taps", taps, 1);
  check_axes("splits", splits, 1);
  if (splits.size() == 0) throw std::invalid_argument("splits is empty");
  const cpu::SparseConvShape shape{image[0],          image[1],          image[2],
                                   image[3],          kernel_size.first, kernel_size.second,
                                   splits.size() - 1, taps.size()};
  const std::string wrong = cpu::check(shape, {taps.data(), splits.data()});
  if (!wrong.empty()) throw std::invalid_argument(wrong);
  return shape;
}

Extents extents(const char* name, const py::array& array) {
  check_axes(name, array, 4);
  return {array.shape(), array.shape() + 4};
}

Extents output_extents(const cpu::SparseConvShape& shape) {
  return {shape.rows(), shape.columns(), shape.filters, shape.samples};
}

template <typename T>
Array<T> sparse_conv(const Array<T>& image, const Array<T>& weights, const Array<T>& bias,
                     const Indices& taps, const Indices& splits, const Pair& kernel_size,
                     int threads, const std::string& instruction_set) {
  const auto shape = shape_below(extents("image", image), taps, splits, kernel_size);
  check_shape("weights", weights, {shape.weights});
  check_shape("bias", bias, {shape.filters});
  Array<T> output(output_extents(shape));
  cpu::run(shape, {taps.data(), splits.data()},
           cpu::SparseConv<T>{image.data(), weights.data(), bias.data(), output.mutable_data()},
           instruction_set_or_best(instruction_set), split_into(threads));
  return output;
}

template <typename T>
Array<T> sparse_conv_input_gradient(const Array<T>& output_gradient, const Array<T>& weights,
                                    const Indices& taps, const Indices& splits,
                                    const Pair& kernel_size, std::int64_t channels, int threads,
                                    const std::string& instruction_set) {
  check_kernel_size(kernel_size);
  const Extents output = extents("output_gradient", output_gradient);
  const Extents image{output[0] + kernel_size.first - 1, output[1] + kernel_size.second - 1,
                      channels, output[3]};
  const auto shape = shape_below(image, taps, splits, kernel_size);
  check_shape("output_gradient", output_gradient, output_extents(shape));
  check_shape("weights", weights, {shape.weights});
  Array<T> image_gradient(image);
  cpu::run(shape, {taps.data(), splits.data()},
           cpu::SparseConvInputGradient<T>{output_gradient.data(), weights.data(),
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
  const auto shape = shape_below(extents("image", image), taps, splits, kernel_size);
  check_shape("output_gradient", output_gradient, output_extents(shape));
  Array<T> weights_gradient(shape.weights);
  Array<T> bias_gradient(shape.filters);
  cpu::run(shape, {taps.data(), splits.data()},
           cpu::SparseConvFilterGradient<T>{image.data(), output_gradient.data(),
                                            weights_gradient.mutable_data(),
                                            bias_gradient.mutable_data()},
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
