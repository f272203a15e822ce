#include "ops/sparse_conv.h"
#include "tensorflow/core/framework/op.h"

namespace prospr::ops {

REGISTER_OP("Prospr>SparseConvInputGradient")
    .Input("output_gradient: T")
    .Input("weights: T")
    .Input("taps: int32")
    .Input("splits: int32")
    .Output("image_gradient: T")
    .Attr("kernel_size: list(int)")
    .Attr("channels: int >= 0")
    .Attr("T: {float, double}")
    .SetShapeFn([](tensorflow::shape_inference::InferenceContext* context) -> absl::Status {
      std::vector<std::int64_t> kernel_size;
      std::int64_t channels;
      TF_RETURN_IF_ERROR(read_pair(context, "kernel_size", &kernel_size));
      TF_RETURN_IF_ERROR(context->GetAttr("channels", &channels));
      tensorflow::shape_inference::ShapeHandle image;
      TF_RETURN_IF_ERROR(context->WithRank(context->input(0), 4, &image));
      for (int axis = 0; axis < 2; ++axis) {
        tensorflow::shape_inference::DimensionHandle size;
        TF_RETURN_IF_ERROR(context->Add(context->Dim(image, axis), kernel_size[axis] - 1, &size));
        TF_RETURN_IF_ERROR(context->ReplaceDim(image, axis, size, &image));
      }
      TF_RETURN_IF_ERROR(context->ReplaceDim(image, 2, context->MakeDim(channels), &image));
      context->set_output(0, image);
      return absl::OkStatus();
    })
    .Doc(R"doc(
The gradient of SparseConv by its image: the transpose of the filters.

image_gradient[r + i, s + j, c, n] is the sum of weights[k] * output_gradient[r, s, f, n] over all
positions r, s, filters f and their weights k that read that element. The result is the same bits for
every number of threads.

output_gradient: [R, S, F, N].
weights: [K].
taps: [K], each in [0, kernel_height * kernel_width * channels).
splits: [F + 1], rising from 0 to K.
kernel_size: height and width of the filters.
channels: C of the image.
image_gradient: [R + kernel_height - 1, S + kernel_width - 1, C, N].
)doc");

template <typename T>
class SparseConvInputGradientOp : public tensorflow::OpKernel {
 public:
  explicit SparseConvInputGradientOp(tensorflow::OpKernelConstruction* context)
      : OpKernel(context) {
    OP_REQUIRES_OK(context, read_pair(context, "kernel_size", &kernel_size_));
    OP_REQUIRES_OK(context, context->GetAttr("channels", &channels_));
  }

  void Compute(tensorflow::OpKernelContext* context) override {
    const tensorflow::Tensor& output_gradient = context->input(0);
    const tensorflow::Tensor& weights = context->input(1);
    const tensorflow::Tensor& taps = context->input(2);
    OP_REQUIRES_OK(context, check_axes("output_gradient", output_gradient, 4));
    tensorflow::TensorShape image;
    OP_REQUIRES_OK(context, tensorflow::TensorShape::BuildTensorShape(
                                {output_gradient.dim_size(0) + kernel_size_[0] - 1,
                                 output_gradient.dim_size(1) + kernel_size_[1] - 1, channels_,
                                 output_gradient.dim_size(3)},
                                &image));
    SparseFilters filters;
    OP_REQUIRES_OK(context, read_filters(image, taps, context->input(3), kernel_size_, &filters));
    OP_REQUIRES_OK(context, check_shape("output_gradient", output_gradient, filters.output));
    OP_REQUIRES_OK(context, check_shape("weights", weights, taps.shape()));
    tensorflow::Tensor* image_gradient;
    OP_REQUIRES_OK(context, context->allocate_output(0, image, &image_gradient));
    OP_REQUIRES_OK(context,
                   run_sparse_conv(context, filters,
                                   cpu::SparseConvInputGradient<T>{
                                       output_gradient.flat<T>().data(), weights.flat<T>().data(),
                                       image_gradient->flat<T>().data()}));
  }

 private:
  std::vector<std::int64_t> kernel_size_;
  std::int64_t channels_;
};

#define REGISTER(T)                                              \
  REGISTER_KERNEL_BUILDER(Name("Prospr>SparseConvInputGradient") \
                              .Device(tensorflow::DEVICE_CPU)    \
                              .TypeConstraint<T>("T"),           \
                          SparseConvInputGradientOp<T>)
REGISTER(float);
REGISTER(double);
#undef REGISTER

}  // namespace prospr::ops
