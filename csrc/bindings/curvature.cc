#include "cpu/curvature.h"

#include <pybind11/stl.h>

#include <stdexcept>

#include "bindings/native.h"

namespace prospr::bindings {
namespace {

Padding padding_named(const std::string& name) {
  if (name == "valid") return Padding::kValid;
  if (name == "same") return Padding::kSame;
  if (name == "causal") return Padding::kCausal;
  throw std::invalid_argument("padding '" + name + "' is not one of valid, same, causal");
}

template <typename T>
void dense_curvature(const Array<T>& inputs, const Array<T>& factors, Array<T> accumulator,
                     int threads, const std::string& instruction_set) {
  ConvShape shape;
  raise_if(check_dense(shape_of("inputs", inputs), shape_of("factors", factors),
                       shape_of("accumulator", accumulator), &shape));
  cpu::run(ConvCurvature<T>{shape, inputs.data(), factors.data(), accumulator.mutable_data()},
           instruction_set_or_best(instruction_set), split_into(threads));
}

template <typename T>
void conv_curvature(const Array<T>& inputs, const Array<T>& factors, Array<T> accumulator,
                    const std::vector<std::int64_t>& strides,
                    const std::vector<std::int64_t>& dilations, const std::string& padding,
                    std::int64_t groups, int threads, const std::string& instruction_set) {
  ConvShape shape;
  raise_if(check_conv(shape_of("inputs", inputs), shape_of("factors", factors),
                      shape_of("accumulator", accumulator),
                      {strides, dilations, padding_named(padding), groups}, &shape));
  cpu::run(ConvCurvature<T>{shape, inputs.data(), factors.data(), accumulator.mutable_data()},
           instruction_set_or_best(instruction_set), split_into(threads));
}

template <typename T>
void pooled_conv_curvature(const Array<T>& inputs, const Array<T>& factors,
                           const Array<T>& derivative, Array<T> accumulator,
                           const std::vector<std::int64_t>& strides,
                           const std::vector<std::int64_t>& dilations, const std::string& padding,
                           std::int64_t groups, int threads, const std::string& instruction_set) {
  ConvShape shape;
  PooledFactors<T> pooled{{}, factors.data(), derivative.data()};
  raise_if(check_pooled_conv(
      shape_of("inputs", inputs), shape_of("factors", factors), shape_of("derivative", derivative),
      shape_of("accumulator", accumulator), {strides, dilations, padding_named(padding), groups},
      &shape, pooled.windows));
  cpu::run(ConvCurvature<T>{shape, inputs.data(), nullptr, accumulator.mutable_data(), pooled},
           instruction_set_or_best(instruction_set), split_into(threads));
}

template <typename T>
Array<T> pooled_conv_input_gradient(const Array<T>& kernel, const Array<T>& factors,
                                    const Array<T>& derivative,
                                    const std::vector<std::int64_t>& input_size,
                                    const std::vector<std::int64_t>& strides,
                                    const std::vector<std::int64_t>& dilations,
                                    const std::string& padding, std::int64_t groups, int threads,
                                    const std::string& instruction_set) {
  ConvShape shape;
  PooledFactors<T> pooled{{}, factors.data(), derivative.data()};
  raise_if(check_pooled_conv_input_gradient(
      shape_of("kernel", kernel), shape_of("factors", factors), shape_of("derivative", derivative),
      input_size, {strides, dilations, padding_named(padding), groups}, &shape, pooled.windows));
  Array<T> gradient(gradient_shape(shape, input_size));
  cpu::run(ConvInputGradient<T>{shape, kernel.data(), pooled, gradient.mutable_data()},
           instruction_set_or_best(instruction_set), split_into(threads));
  return gradient;
}

template <typename T, typename Index>
void embedding_curvature(const Array<Index>& indices, const Array<T>& factors, Array<T> accumulator,
                         int threads, const std::string& instruction_set) {
  EmbeddingShape shape;
  raise_if(check_embedding(shape_of("indices", indices), shape_of("factors", factors),
                           shape_of("accumulator", accumulator), &shape));
  raise_if(cpu::run(EmbeddingCurvature<T, Index>{shape, indices.data(), factors.data(),
                                                 accumulator.mutable_data()},
                    instruction_set_or_best(instruction_set), split_into(threads)));
}

template <typename T>
void define_contractions(py::module_& module) {
  using namespace py::literals;
  module.def("dense_curvature", &dense_curvature<T>, "inputs"_a.noconvert(),
             "factors"_a.noconvert(), "accumulator"_a.noconvert(), "threads"_a = 1,
             "instruction_set"_a = "");
  module.def("conv_curvature", &conv_curvature<T>, "inputs"_a.noconvert(), "factors"_a.noconvert(),
             "accumulator"_a.noconvert(), "strides"_a, "dilations"_a, "padding"_a = "valid",
             "groups"_a = 1, "threads"_a = 1, "instruction_set"_a = "");
  module.def("pooled_conv_curvature", &pooled_conv_curvature<T>, "inputs"_a.noconvert(),
             "factors"_a.noconvert(), "derivative"_a.noconvert(), "accumulator"_a.noconvert(),
             "strides"_a, "dilations"_a, "padding"_a = "valid", "groups"_a = 1, "threads"_a = 1,
             "instruction_set"_a = "");
  module.def("pooled_conv_input_gradient", &pooled_conv_input_gradient<T>, "kernel"_a.noconvert(),
             "factors"_a.noconvert(), "derivative"_a.noconvert(), "input_size"_a, "strides"_a,
             "dilations"_a, "padding"_a = "valid", "groups"_a = 1, "threads"_a = 1,
             "instruction_set"_a = "");
  module.def("embedding_curvature", &embedding_curvature<T, std::int32_t>, "indices"_a.noconvert(),
             "factors"_a.noconvert(), "accumulator"_a.noconvert(), "threads"_a = 1,
             "instruction_set"_a = "");
  module.def("embedding_curvature", &embedding_curvature<T, std::int64_t>, "indices"_a.noconvert(),
             "factors"_a.noconvert(), "accumulator"_a.noconvert(), "threads"_a = 1,
             "instruction_set"_a = "");
}

}  // namespace

void define_curvature(py::module_& module) {
  define_contractions<float>(module);
  define_contractions<double>(module);
}

}  // namespace prospr::bindings
