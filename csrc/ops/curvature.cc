#include "ops/curvature.h"

namespace prospr::ops {

using tensorflow::Tensor;
using tensorflow::shape_inference::InferenceContext;

cpu::Shape shape_of(const Tensor& tensor) {
  const auto sizes = tensor.shape().dim_sizes();
  return cpu::Shape(sizes.begin(), sizes.end());
}

template <typename Device, typename Sum>
absl::Status forward_accumulator(tensorflow::OpKernelContext* context, Sum** curvature,
                                 int accumulator_input) {
  const Tensor& accumulator = context->input(accumulator_input);
  Tensor* output;
  TF_RETURN_IF_ERROR(context->forward_input_or_allocate_output({accumulator_input}, 0,
                                                               accumulator.shape(), &output));
  *curvature = output->flat<Sum>().data();
  const Sum* const from = accumulator.flat<Sum>().data();
  if (from == *curvature) return absl::OkStatus();
  return Device::copy(context, *curvature, from,
                      static_cast<std::size_t>(accumulator.NumElements()) * sizeof(Sum));
}

#define INSTANTIATE(D)                                                                      \
  template absl::Status forward_accumulator<D>(tensorflow::OpKernelContext*, float**, int); \
  template absl::Status forward_accumulator<D>(tensorflow::OpKernelContext*, double**, int)
INSTANTIATE(CPU);
#if defined(PROSPR_CUDA)
INSTANTIATE(GPU);
#endif
#undef INSTANTIATE

absl::Status check_accumulator_type(InferenceContext* context) {
  tensorflow::DataType type;
  tensorflow::DataType accumulator;
  TF_RETURN_IF_ERROR(context->GetAttr("T", &type));
  TF_RETURN_IF_ERROR(context->GetAttr("A", &accumulator));
  const auto wanted = type == tensorflow::DT_DOUBLE ? tensorflow::DT_DOUBLE : tensorflow::DT_FLOAT;
  if (accumulator == wanted) return absl::OkStatus();
  return absl::InvalidArgumentError("the accumulator of " + tensorflow::DataTypeString(type) +
                                    " must be of dtype " + tensorflow::DataTypeString(wanted) +
                                    ", not " + tensorflow::DataTypeString(accumulator));
}

bool known_shapes(InferenceContext* context, cpu::Shape* shapes, int count) {
  for (int i = 0; i < count; ++i) {
    if (!context->FullyDefined(context->input(i))) return false;
    for (int axis = 0; axis < context->Rank(context->input(i)); ++axis) {
      shapes[i].push_back(context->Value(context->Dim(context->input(i), axis)));
    }
  }
  return true;
}

}  // namespace prospr::ops
