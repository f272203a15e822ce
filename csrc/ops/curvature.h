// What the curvature ops share.
#pragma once

#include "cpu/curvature.h"
#if defined(PROSPR_CUDA)
#include "cuda/curvature.h"
#endif
#include "ops/device.h"
#include "ops/kernel.h"
#include "ops/parallel_for.h"
#include "tensorflow/core/framework/shape_inference.h"

namespace prospr::ops {

cpu::Shape shape_of(const tensorflow::Tensor& tensor);

// Output 0 with the values of the accumulator, that input: its own buffer if nobody else holds it.
template <typename Device, typename Sum>
absl::Status forward_accumulator(tensorflow::OpKernelContext* context, Sum** curvature,
                                 int accumulator_input = 2);

// The kernels, by device. Memory that their scratch does not get is an error of the op.
template <typename Device>
struct Contraction;

template <>
struct Contraction<CPU> {
  template <typename T>
  static absl::Status run(tensorflow::OpKernelContext* context, const cpu::ConvCurvature<T>& conv) {
    return run_kernel([&] {
      cpu::run(conv, cpu::best_instruction_set(), parallel_for(context));
      return std::string();
    });
  }

  template <typename T>
  static absl::Status run(tensorflow::OpKernelContext* context,
                          const cpu::ConvInputGradient<T>& conv) {
    return run_kernel([&] {
      cpu::run(conv, cpu::best_instruction_set(), parallel_for(context));
      return std::string();
    });
  }

  template <typename T, typename Index>
  static absl::Status run(tensorflow::OpKernelContext* context,
                          const cpu::EmbeddingCurvature<T, Index>& embedding) {
    return run_kernel(
        [&] { return cpu::run(embedding, cpu::best_instruction_set(), parallel_for(context)); });
  }
};

#if defined(PROSPR_CUDA)
template <>
struct Contraction<GPU> {
  template <typename T>
  static absl::Status run(tensorflow::OpKernelContext* context, const cpu::ConvCurvature<T>& conv) {
    return run_with_scratch(context, conv, cuda::scratch_bytes(conv));
  }

  template <typename T>
  static absl::Status run(tensorflow::OpKernelContext* context,
                          const cpu::ConvInputGradient<T>& conv) {
    TF_RETURN_IF_ERROR(status_of(cuda::check_limits(conv.shape)));
    return launch_status(cuda::run(conv, stream_of(context)));
  }

  template <typename T, typename Index>
  static absl::Status run(tensorflow::OpKernelContext* context,
                          const cpu::EmbeddingCurvature<T, Index>& embedding) {
    return run_with_scratch(context, embedding, cuda::scratch_bytes(embedding.shape));
  }

 private:
  template <typename Arguments>
  static absl::Status run_with_scratch(tensorflow::OpKernelContext* context,
                                       const Arguments& arguments, std::int64_t scratch_bytes) {
    TF_RETURN_IF_ERROR(status_of(cuda::check_limits(arguments.shape)));
    tensorflow::Tensor scratch;
    TF_RETURN_IF_ERROR(context->allocate_temp(tensorflow::DT_INT8, {scratch_bytes}, &scratch));
    return launch_status(
        cuda::run(arguments, scratch.flat<std::int8_t>().data(), stream_of(context)));
  }
};
#endif

// Of attributes T and A: A must be the type that sums of T are kept in.
absl::Status check_accumulator_type(tensorflow::shape_inference::InferenceContext* context);

// Reads the shapes of the first `count` inputs; false unless all are fully known.
bool known_shapes(tensorflow::shape_inference::InferenceContext* context, cpu::Shape* shapes,
                  int count = 3);

// A convolution's attributes, of an OpKernelConstruction or an InferenceContext.
template <typename Context>
absl::Status read_conv_options(Context* context, cpu::ConvOptions* options) {
  std::string padding;
  TF_RETURN_IF_ERROR(context->GetAttr("strides", &options->strides));
  TF_RETURN_IF_ERROR(context->GetAttr("dilations", &options->dilations));
  TF_RETURN_IF_ERROR(context->GetAttr("groups", &options->groups));
  TF_RETURN_IF_ERROR(context->GetAttr("padding", &padding));
  options->padding = padding == "VALID"  ? cpu::Padding::kValid
                     : padding == "SAME" ? cpu::Padding::kSame
                                         : cpu::Padding::kCausal;
  return absl::OkStatus();
}

}  // namespace prospr::ops
