#include "ops/curvature.h"
#include "tensorflow/core/framework/op.h"

namespace prospr::ops {
REGISTER_OP("Prospr>ConvCurvature")
    .Input("inputs: T")
    .Input("factors: T")
    .Input("accumulator: A")
    .Output("curvature: A")
    .Attr("T: {half, bfloat16, float, double}")
    .Attr("A: {float, double} = DT_FLOAT")
    .Attr("strides: list(int)")
    .Attr("dilations: list(int)")
    .Attr("padding: {'VALID', 'SAME', 'CAUSAL'}")
    .Attr("groups: int = 1")
    .SetShapeFn([](tensorflow::shape_inference::InferenceContext* context) -> absl::Status {
      TF_RETURN_IF_ERROR(check_accumulator_type(context));
      context->set_output(0, context->input(2));
      cpu::ConvOptions options;
      TF_RETURN_IF_ERROR(read_conv_options(context, &options));
      cpu::Shape shapes[3];
      cpu::ConvShape checked;
      if (!known_shapes(context, shapes)) return absl::OkStatus();
      return status_of(cpu::check_conv(shapes[0], shapes[1], shapes[2], options, &checked));
    })
    .Doc(R"doc(
The diagonal of the (generalised Gauss-Newton) Hessian of a convolution's kernel, in closed form.

curvature[k, i, o] = accumulator[k, i, o]
                     + sum_n sum_c (sum_t patches[n, t, k, i] * factors[c, n, t, o])^2,
k being the kernel's 1, 2 or 3 spatial axes, t the output pixels, and patches[n, t] the inputs that
pixel t sees. Pixels are summed before the square. Nothing is divided by the number of samples: all
scale, such as 1 / sqrt(N), is in the factors. Sums are kept in the accumulator's dtype.

A depthwise convolution of M outputs a channel is one of groups = channels: its kernel
[k..., channels, M] and the accumulator's [k..., 1, channels * M] are the same memory.

With few positions the square is expanded into products of pairs. Its error is then a few roundings
of the sum over n, c of (sum_t |inputs * factors|)^2, which is more than of a result that cancels over
positions, and inputs^2 must not overflow.

The accumulator's buffer is reused for the output where nobody else holds it, so columns or samples
can come in several calls. The result is the same bits for every number of threads.

inputs: The layer's input, [N, spatial..., channels].
factors: Gradient factors at its output before the activation, [C, N, output spatial..., O].
accumulator: [kernel spatial..., channels / groups, O]; float64 for float64, else float32.
curvature: In the accumulator's shape.
strides: One for each spatial axis, at least 1.
dilations: One for each spatial axis, at least 1.
padding: As in Keras; CAUSAL only with one spatial axis.
groups: Divides the channels and O; group g of the outputs sees group g of the channels.
)doc");

template <typename Device, typename T, typename Sum>
class ConvCurvatureOp : public tensorflow::OpKernel {
 public:
  explicit ConvCurvatureOp(tensorflow::OpKernelConstruction* context)
      : tensorflow::OpKernel(context) {
    OP_REQUIRES_OK(context, read_conv_options(context, &options_));
  }

  void Compute(tensorflow::OpKernelContext* context) override {
    const tensorflow::Tensor& inputs = context->input(0);
    const tensorflow::Tensor& factors = context->input(1);
    cpu::ConvShape shape;
    OP_REQUIRES_OK(context,
                   status_of(cpu::check_conv(shape_of(inputs), shape_of(factors),
                                             shape_of(context->input(2)), options_, &shape)));
    Sum* curvature;
    OP_REQUIRES_OK(context, forward_accumulator<Device>(context, &curvature));
    const cpu::ConvCurvature<typename KernelType<T>::Type> convolution{
        shape, data_of<T>(inputs), data_of<T>(factors), curvature};
    OP_REQUIRES_OK(context, Contraction<Device>::run(context, convolution));
  }

 private:
  cpu::ConvOptions options_;
};

#define REGISTER(D, T, A)                                     \
  REGISTER_KERNEL_BUILDER(Name("Prospr>ConvCurvature")        \
                              .Device(tensorflow::DEVICE_##D) \
                              .TypeConstraint<T>("T")         \
                              .TypeConstraint<A>("A"),        \
                          ConvCurvatureOp<D, T, A>)
#define REGISTER_ALL(D)                     \
  REGISTER(D, Eigen::half, float);          \
  REGISTER(D, tensorflow::bfloat16, float); \
  REGISTER(D, float, float);                \
  REGISTER(D, double, double)
REGISTER_ALL(CPU);
#if defined(PROSPR_CUDA)
REGISTER_ALL(GPU);
#endif
#undef REGISTER_ALL
#undef REGISTER

}  // namespace prospr::ops
