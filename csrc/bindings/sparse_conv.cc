#include "cpu/sparse_conv.h"

#include "bindings/native.h"

namespace prospr::bindings {
namespace {

using Pair = std::pair<std::int64_t, std::int64_t>;
using Indices = Array<std::int32_t>;

Window window_of(const Pair& kernel_size, const Pair& strides, const Pair& dilations, bool same) {
  Window window;
  raise_if(check_window({kernel_size.first, kernel_size.second}, {strides.first, strides.second},
                        {dilations.first, dilations.second}, same, &window));
  return window;
}

// The filters on images of a shape, checked.
SparseConvShape filters_on(const Shape& image, const Indices& taps, const Indices& splits,
                           const Window& window) {
  SparseConvShape shape;
  raise_if(check_filters(image, shape_of("taps", taps), shape_of("splits", splits),
                         {taps.data(), splits.data()}, window, &shape));
  return shape;
}

void check(const char* name, const py::array& array, const Shape& wanted) {
  raise_if(check_shape(name, shape_of(name, array), wanted));
}

template <typename T>
Array<T> sparse_conv(const Array<T>& image, const Array<T>& weights, const Array<T>& bias,
                     const Indices& taps, const Indices& splits, const Pair& kernel_size,
                     const Pair& strides, const Pair& dilations, bool same, int threads,
                     const std::string& instruction_set) {
  const auto window = window_of(kernel_size, strides, dilations, same);
  const auto shape = filters_on(shape_of("image", image), taps, splits, window);
  check("weights", weights, {shape.weights});
  check("bias", bias, {shape.filters});
  Array<T> output(shape.output());
  cpu::run(shape,
           SparseConv<T>{{taps.data(), splits.data()},
                         image.data(),
                         weights.data(),
                         bias.data(),
                         output.mutable_data()},
           instruction_set_or_best(instruction_set), split_into(threads));
  return output;
}

template <typename T>
Array<T> sparse_conv_input_gradient(const Array<T>& output_gradient, const Array<T>& weights,
                                    const Indices& taps, const Indices& splits,
                                    const Indices& order, const Pair& image_size,
                                    const Pair& kernel_size, const Pair& strides,
                                    const Pair& dilations, bool same, int threads,
                                    const std::string& instruction_set) {
  const auto window = window_of(kernel_size, strides, dilations, same);
  const Shape output = shape_of("output_gradient", output_gradient);
  raise_if(check_axes("output_gradient", output, 5));
  const Shape transposed_splits = shape_of("splits", splits);
  raise_if(check_axes("splits", transposed_splits, 1));
  raise_if(check_not_empty("splits", transposed_splits));
  const Shape image{output[0], image_size.first, image_size.second, transposed_splits[0] - 1,
                    kBlockLanes};
  const TransposedPattern pattern{taps.data(), splits.data(), order.data()};
  SparseConvShape shape;
  raise_if(check_transposed(image, output[3], shape_of("taps", taps), transposed_splits,
                            shape_of("order", order), pattern, window, &shape));
  check("output_gradient", output_gradient, shape.output());
  check("weights", weights, {shape.weights});
  Array<T> image_gradient(image);
  cpu::run(shape,
           SparseConvInputGradient<T>{pattern, output_gradient.data(), weights.data(),
                                      image_gradient.mutable_data()},
           instruction_set_or_best(instruction_set), split_into(threads));
  return image_gradient;
}

template <typename T>
std::pair<Array<T>, Array<T>> sparse_conv_filter_gradient(
    const Array<T>& image, const Array<T>& output_gradient, const Indices& taps,
    const Indices& splits, const Pair& kernel_size, const Pair& strides, const Pair& dilations,
    bool same, int threads, const std::string& instruction_set) {
  const auto window = window_of(kernel_size, strides, dilations, same);
  const auto shape = filters_on(shape_of("image", image), taps, splits, window);
  check("output_gradient", output_gradient, shape.output());
  Array<T> weights_gradient(shape.weights);
  Array<T> bias_gradient(shape.filters);
  cpu::run(shape,
           SparseConvFilterGradient<T>{{taps.data(), splits.data()},
                                       image.data(),
                                       output_gradient.data(),
                                       weights_gradient.mutable_data(),
                                       bias_gradient.mutable_data()},
           instruction_set_or_best(instruction_set), split_into(threads));
  return {weights_gradient, bias_gradient};
}

template <typename T>
Array<T> to_blocks(const Array<T>& samples, int threads, const std::string& instruction_set) {
  Shape shape = shape_of("samples", samples);
  raise_if(check_axes("samples", shape, 2));
  const std::int64_t count = shape[0];
  Array<T> blocks(Shape{blocks_of(count), shape[1], kBlockLanes});
  cpu::run(ToBlocks<T>{count, shape[1], samples.data(), blocks.mutable_data()},
           instruction_set_or_best(instruction_set), split_into(threads));
  return blocks;
}

template <typename T>
Array<T> from_blocks(const Array<T>& blocks, std::int64_t samples, int threads,
                     const std::string& instruction_set) {
  const Shape shape = shape_of("blocks", blocks);
  raise_if(check_axes("blocks", shape, 3));
  if (samples < 0 || samples > (std::int64_t{1} << 40)) {
    raise_if("samples is " + std::to_string(samples) + "; it must be in [0, 2^40]");
  }
  raise_if(check_shape("blocks", shape, {blocks_of(samples), shape[1], kBlockLanes}));
  Array<T> values(Shape{samples, shape[1]});
  cpu::run(FromBlocks<T>{samples, shape[1], blocks.data(), values.mutable_data()},
           instruction_set_or_best(instruction_set), split_into(threads));
  return values;
}

template <typename T>
void define(py::module_& module) {
  using namespace py::literals;
  module.def("sparse_conv", &sparse_conv<T>, "image"_a.noconvert(), "weights"_a.noconvert(),
             "bias"_a.noconvert(), "taps"_a.noconvert(), "splits"_a.noconvert(), "kernel_size"_a,
             "strides"_a, "dilations"_a, "same"_a, "threads"_a = 1, "instruction_set"_a = "");
  module.def("sparse_conv_input_gradient", &sparse_conv_input_gradient<T>,
             "output_gradient"_a.noconvert(), "weights"_a.noconvert(), "taps"_a.noconvert(),
             "splits"_a.noconvert(), "order"_a.noconvert(), "image_size"_a, "kernel_size"_a,
             "strides"_a, "dilations"_a, "same"_a, "threads"_a = 1, "instruction_set"_a = "");
  module.def("sparse_conv_filter_gradient", &sparse_conv_filter_gradient<T>, "image"_a.noconvert(),
             "output_gradient"_a.noconvert(), "taps"_a.noconvert(), "splits"_a.noconvert(),
             "kernel_size"_a, "strides"_a, "dilations"_a, "same"_a, "threads"_a = 1,
             "instruction_set"_a = "");
  module.def("to_blocks", &to_blocks<T>, "samples"_a.noconvert(), "threads"_a = 1,
             "instruction_set"_a = "");
  module.def("from_blocks", &from_blocks<T>, "blocks"_a.noconvert(), "samples"_a, "threads"_a = 1,
             "instruction_set"_a = "");
}

}  // namespace

void define_sparse_conv(py::module_& module) {
  define<float>(module);
  define<double>(module);
}

}  // namespace prospr::bindings
