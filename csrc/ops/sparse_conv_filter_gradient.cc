#include "ops/sparse_conv.h"
#include "tensorflow/core/framework/op.h"

namespace prospr::ops {

REGISTER_OP("Prospr>SparseConvFilterGradient")
    .Input("image: T")
    .Input("output_gradient: T")
    .Input("taps: int32")
    .Input("splits: int32")
    .Output("weights_gradient: T")
    .Output("bias_gradient: T")
    .Attr("kernel_size: list(int)")
    .Attr("T: {float, double}")
    .SetShapeFn([](tensorflow::shape_inference::InferenceContext* context) -> absl::Status {
      tensorflow::shape_inference::ShapeHandle output;
      tensorflow::shape_inference::ShapeHandle taps;
      TF_RETURN_IF_ERROR(context->WithRank(context->input(1), 4, &output));
      TF_RETURN_IF_ERROR(context->WithRank(context->input(2), 1, &taps));
      context->set_output(0, taps);
      context->set_output(1, context->Vector(context->Dim(output, 2)));
      return absl::OkStatus();
    })
    .Doc(R"doc(
The gradients of SparseConv by its weights and bias.

weights_gradient[k], of a weight of filter f, is the sum of
  output_gradient[r, s, f, n] * image[r + i, s + j, c, n], where taps[k] = (i * kernel_width + j) * C + c,
over r, s and n; bias_gradient[f] that of output_gradient[r, s, f, n]. The result is the same bits for
every number of threads.

image: [H, W, C, N].
output_gradient: [H - kernel_height + 1, W - kernel_width + 1, F, N].
taps: [K], each in [0, kernel_height * kernel_width * C).
splits: [F + 1], rising from 0 to K.
kernel_size: height and width of the filters, no larger than the image's.
weights_gradient: [K].
bias_gradient: [F].
)doc");

template <typename T>
class SparseConvFilterGradientOp : public tensorflow::OpKernel {
 public:
  explicit SparseConvFilterGradientOp(tensorflow::OpKernelConstruction* context)
      : OpKernel(context) {
    OP_REQUIRES_OK(context, read_pair(context, "kernel_size", &kernel_size_));
  }

  void Compute(tensorflow::OpKernelContext* context) override {
    const tensorflow::Tensor& image = context->input(0);
    const tensorflow::Tensor& output_gradient = context->input(1);
    const tensorflow::Tensor& taps = context->input(2);
    SparseFilters filters;
    OP_REQUIRES_OK(context, check_axes("image", image, 4));
    OP_REQUIRES_OK(context,
                   read_filters(image.shape(), taps, context->input(3), kernel_size_, &filters));
    OP_REQUIRES_OK(context, check_shape("output_gradient", output_gradient, filters.output));
    tensorflow::Tensor* weights_gradient;
    tensorflow::Tensor* bias_gradient;
    OP_REQUIRES_OK(context, context->allocate_output(0, taps.shape(), &weights_gradient));
    OP_REQUIRES_OK(context, context->allocate_output(1, {filters.shape.filters}, &bias_gradient));
    OP_REQUIRES_OK(
        context,
        run_sparse_conv(context, filters,
                        cpu::SparseConvFilterGradient<T>{
                            image.flat<T>().data(), output_gradient.flat<T>().data(),
                            weights_gradient->flat<T>().data(), bias_gradient->flat<T>().data()}));
  }

 private:
  std::vector<std::int64_t> kernel_size_;
};

#define REGISTER(T)                                               \
  REGISTER_KERNEL_BUILDER(Name("Prospr>SparseConvFilterGradient") \
                              .Device(tensorflow::DEVICE_CPU)     \
                              .TypeConstraint<T>("T"),            \
                          SparseConvFilterGradientOp<T>)
REGISTER(float);
REGISTER(double);
#undef REGISTER

}  // namespace prospr::ops
