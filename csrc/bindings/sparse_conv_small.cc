#include "cpu/sparse_conv_small.h"

#include "bindings/native.h"

namespace prospr::bindings {
namespace {

using Pair = std::pair<std::int64_t, std::int64_t>;
using Indices = Array<std::int32_t>;

template <typename T>
Array<T> sparse_conv_small(const Array<T>& image, const Array<T>& weights, const Array<T>& scale,
                           const Array<T>& bias, const Indices& taps, const Indices& splits,
                           const Pair& kernel_size, const Pair& strides, const Pair& dilations,
                           bool same, int threads, const std::string& instruction_set) {
  Window window;
  raise_if(check_window({kernel_size.first, kernel_size.second}, {strides.first, strides.second},
                        {dilations.first, dilations.second}, same, &window));
  const SparsePattern pattern{taps.data(), splits.data()};
  SparseConvShape shape;
  raise_if(check_small_filters(shape_of("image", image), shape_of("taps", taps),
                               shape_of("splits", splits), pattern, window, &shape));
  raise_if(check_shape("weights", shape_of("weights", weights), {shape.weights}));
  raise_if(check_shape("scale", shape_of("scale", scale), {shape.filters}));
  raise_if(check_shape("bias", shape_of("bias", bias), {shape.filters}));
  Array<T> output(small_output(shape));
  cpu::SharedSmallPlan plan;
  cpu::run(shape,
           SparseConvSmall<T>{pattern, image.data(), weights.data(), scale.data(), bias.data(),
                              output.mutable_data()},
           &plan, instruction_set_or_best(instruction_set), split_into(threads));
  return output;
}

template <typename T>
void define(py::module_& module) {
  using namespace py::literals;
  module.def("sparse_conv_small", &sparse_conv_small<T>, "image"_a.noconvert(),
             "weights"_a.noconvert(), "scale"_a.noconvert(), "bias"_a.noconvert(),
             "taps"_a.noconvert(), "splits"_a.noconvert(), "kernel_size"_a, "strides"_a,
             "dilations"_a, "same"_a, "threads"_a = 1, "instruction_set"_a = "");
}

}  // namespace

void define_sparse_conv_small(py::module_& module) {
  define<float>(module);
  define<double>(module);
}

}  // namespace prospr::bindings
