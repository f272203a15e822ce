#include "ops/sparse_conv.h"

#include "tensorflow/core/framework/op.h"

namespace prospr::ops {

REGISTER_OP("Prospr>SparseConv")
    .Input("image: T")
    .Input("weights: T")
    .Input("bias: T")
    .Input("taps: int32")
    .Input("splits: int32")
    .Output("output: T")
    .Attr("kernel_size: list(int)")
    .Attr("T: {float, double}")
    .SetShapeFn([](tensorflow::shape_inference::InferenceContext* context) -> absl::Status {
      std::vector<std::int64_t> kernel_size;
      TF_RETURN_IF_ERROR(read_pair(context, "kernel_size", &kernel_size));
      tensorflow::shape_inference::ShapeHandle output;
      tensorflow::shape_inference::ShapeHandle bias;
      TF_RETURN_IF_ERROR(context->WithRank(context->input(0), 4, &output));
      TF_RETURN_IF_ERROR(context->WithRank(context->input(2), 1, &bias));
      for (int axis = 0; axis < 2; ++axis) {
        tensorflow::shape_inference::DimensionHandle size;
        TF_RETURN_IF_ERROR(
            context->Subtract(context->Dim(output, axis), kernel_size[axis] - 1, &size));
        TF_RETURN_IF_ERROR(context->ReplaceDim(output, axis, size, &output));
      }
      TF_RETURN_IF_ERROR(context->ReplaceDim(output, 2, context->Dim(bias, 0), &output));
      context->set_output(0, output);
      return absl::OkStatus();
    })
    .Doc(R"doc(
Convolution by the weights that are left of its filters: the work is that of these weights.

output[r, s, f, n] = bias[f] + sum over the weights k of filter f of
  weights[k] * image[r + i, s + j, c, n], where taps[k] = (i * kernel_width + j) * C + c.

The filters move by one and stay within the image. They are the rows of a sparse matrix: filter f has
the weights splits[f] to splits[f + 1], of which several may have the same tap. With a kernel_size of
[1, 1] on an image of 1 x 1 it is a dense layer. The result is the same bits for every number of
threads.

image: [H, W, C, N], the samples along the last axis.
weights: [K].
bias: [F].
taps: [K], each in [0, kernel_height * kernel_width * C).
splits: [F + 1], rising from 0 to K.
kernel_size: its height and width, no larger than the image's.
output: [H - kernel_height + 1, W - kernel_width + 1, F, N].
)doc");

template <typename T>
class SparseConvOp : public tensorflow::OpKernel {
 public:
  explicit SparseConvOp(tensorflow::OpKernelConstruction* context) : OpKernel(context) {
    OP_REQUIRES_OK(context, read_pair(context, "kernel_size", &kernel_size_));
  }

  void Compute(tensorflow::OpKernelContext* context) override {
    const tensorflow::Tensor& image = context->input(0);
    const tensorflow::Tensor& weights = context->input(1);
    const tensorflow::Tensor& bias = context->input(2);
    const tensorflow::Tensor& taps = context->input(3);
    SparseFilters filters;
    OP_REQUIRES_OK(context, check_axes("image", image, 4));
    OP_REQUIRES_OK(context,
                   read_filters(image.shape(), taps, context->input(4), kernel_size_, &filters));
    OP_REQUIRES_OK(context, check_shape("weights", weights, taps.shape()));
    OP_REQUIRES_OK(context, check_shape("bias", bias, {filters.shape.filters}));
    tensorflow::Tensor* output;
    OP_REQUIRES_OK(context, context->allocate_output(0, filters.output, &output));
    OP_REQUIRES_OK(context, run_sparse_conv(context, filters,
                                            cpu::SparseConv<T>{
                                                image.flat<T>().data(), weights.flat<T>().data(),
                                                bias.flat<T>().data(), output->flat<T>().data()}));
  }

 private:
  std::vector<std::int64_t> kernel_size_;
};

#define REGISTER(T)                                                                    \
  REGISTER_KERNEL_BUILDER(                                                             \
      Name("Prospr>SparseConv").Device(tensorflow::DEVICE_CPU).TypeConstraint<T>("T"), \
      SparseConvOp<T>)
REGISTER(float);
REGISTER(double);
#undef REGISTER

}  // namespace prospr::ops
