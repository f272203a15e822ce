#include "ops/curvature.h"
#include "tensorflow/core/framework/op.h"

namespace prospr::ops {

REGISTER_OP("Prospr>PooledConvCurvature")
    .Input("inputs: T")
    .Input("factors: T")
    .Input("derivative: T")
    .Input("accumulator: T")
    .Output("curvature: T")
    .Attr("T: {float, double}")
    .Attr("strides: list(int)")
    .Attr("dilations: list(int)")
    .Attr("padding: {'VALID', 'SAME', 'CAUSAL'}")
    .Attr("groups: int = 1")
    .SetShapeFn([](tensorflow::shape_inference::InferenceContext* context) -> absl::Status {
      context->set_output(0, context->input(3));
      cpu::ConvOptions options;
      TF_RETURN_IF_ERROR(read_conv_options(context, &options));
      cpu::Shape shapes[4];
      cpu::ConvShape checked;
      if (!known_shapes(context, shapes, 4)) return absl::OkStatus();
      std::int64_t windows[cpu::ConvShape::kAxes];
      return status_of(cpu::check_pooled_conv(shapes[0], shapes[1], shapes[2], shapes[3], options,
                                              &checked, windows));
    })
    .Doc(R"doc(
What Prospr>ConvCurvature computes, of factors that come from behind a pooling.

The windows of the pooling tile the convolution's output, and a dense factor at an output pixel is
factors at its window times derivative at the pixel. Where the derivative is zero, as it mostly is
before a max-pooling, a pixel costs nothing on the CPU; on a GPU it costs as much as any. The
accumulator's buffer is reused for the output where nobody else holds it. The result is the same bits
for every number of threads.

inputs: The layer's input, [N, spatial..., channels].
factors: [C, N, windows..., O]; the windows on each spatial axis divide the output's size.
derivative: Of the pooling and of all that is elementwise before it, [N, output spatial..., O].
accumulator: [kernel spatial..., channels / groups, O].
curvature: In the accumulator's shape.
strides: One for each spatial axis, at least 1.
dilations: One for each spatial axis, at least 1.
padding: As in Keras; CAUSAL only with one spatial axis.
groups: Divides the channels and O; group g of the outputs sees group g of the channels.
)doc");

template <typename Device, typename T>
class PooledConvCurvatureOp : public tensorflow::OpKernel {
 public:
  explicit PooledConvCurvatureOp(tensorflow::OpKernelConstruction* context)
      : tensorflow::OpKernel(context) {
    OP_REQUIRES_OK(context, read_conv_options(context, &options_));
  }

  void Compute(tensorflow::OpKernelContext* context) override {
    cpu::ConvShape shape;
    cpu::PooledFactors<T> factors{};
    OP_REQUIRES_OK(context, status_of(cpu::check_pooled_conv(
                                shape_of(context->input(0)), shape_of(context->input(1)),
                                shape_of(context->input(2)), shape_of(context->input(3)), options_,
                                &shape, factors.windows)));
    factors.values = data_of<T>(context->input(1));
    factors.derivative = data_of<T>(context->input(2));
    T* curvature;
    OP_REQUIRES_OK(context, forward_accumulator<Device>(context, &curvature, 3));
    const cpu::ConvCurvature<T> convolution{shape, data_of<T>(context->input(0)), nullptr,
                                            curvature, factors};
    OP_REQUIRES_OK(context, Contraction<Device>::run(context, convolution));
  }

 private:
  cpu::ConvOptions options_;
};

#define REGISTER(D, T)                                                                          \
  REGISTER_KERNEL_BUILDER(                                                                      \
      Name("Prospr>PooledConvCurvature").Device(tensorflow::DEVICE_##D).TypeConstraint<T>("T"), \
      PooledConvCurvatureOp<D, T>)
#define REGISTER_ALL(D) \
  REGISTER(D, float);   \
  REGISTER(D, double)
REGISTER_ALL(CPU);
#if defined(PROSPR_CUDA)
REGISTER_ALL(GPU);
#endif
#undef REGISTER_ALL
#undef REGISTER

}  // namespace prospr::ops
