#include "ops/curvature.h"
#include "tensorflow/core/framework/op.h"

namespace prospr::ops {
namespace {

// The attributes of an OpKernelConstruction or an InferenceContext.
template <typename Context>
absl::Status read_attributes(Context* context, cpu::ConvOptions* options, cpu::Shape* input_size) {
  TF_RETURN_IF_ERROR(context->GetAttr("input_size", input_size));
  return read_conv_options(context, options);
}

// [columns, samples, input_size..., channels].
tensorflow::TensorShape gradient_shape(const cpu::ConvShape& shape, const cpu::Shape& input_size) {
  tensorflow::TensorShape result({shape.columns, shape.samples});
  for (const std::int64_t size : input_size) result.AddDim(size);
  result.AddDim(shape.input_channels);
  return result;
}

}  // namespace

REGISTER_OP("Prospr>PooledConvInputGradient")
    .Input("kernel: T")
    .Input("factors: T")
    .Input("derivative: T")
    .Output("gradient: T")
    .Attr("T: {float, double}")
    .Attr("input_size: list(int)")
    .Attr("strides: list(int)")
    .Attr("dilations: list(int)")
    .Attr("padding: {'VALID', 'SAME', 'CAUSAL'}")
    .Attr("groups: int = 1")
    .SetShapeFn([](tensorflow::shape_inference::InferenceContext* context) -> absl::Status {
      cpu::ConvOptions options;
      cpu::Shape input_size;
      TF_RETURN_IF_ERROR(read_attributes(context, &options, &input_size));
      context->set_output(0, context->UnknownShapeOfRank(static_cast<int>(input_size.size()) + 3));
      cpu::Shape shapes[3];
      cpu::ConvShape checked;
      if (!known_shapes(context, shapes)) return absl::OkStatus();
      std::int64_t windows[cpu::ConvShape::kAxes];
      TF_RETURN_IF_ERROR(status_of(cpu::check_pooled_conv_input_gradient(
          shapes[0], shapes[1], shapes[2], input_size, options, &checked, windows)));
      tensorflow::shape_inference::ShapeHandle output;
      TF_RETURN_IF_ERROR(
          context->MakeShapeFromTensorShape(gradient_shape(checked, input_size), &output));
      context->set_output(0, output);
      return absl::OkStatus();
    })
    .Doc(R"doc(
Backpropagates factors that come from behind a pooling through a convolution.

gradient[c, n] is the convolution's vector-Jacobian product with the dense factors of column c and
sample n. The windows of the pooling tile the convolution's output, and a dense factor at an output
pixel is factors at its window times derivative at the pixel. Where the derivative is zero, as it
mostly is before a max-pooling, a pixel costs nothing on the CPU; on a GPU it costs as much as any. An
infinite factor, or on a GPU weight, makes its neighbours NaN. The result is the same bits for every
number of threads.

kernel: [kernel spatial..., channels / groups, O].
factors: [C, N, windows..., O]; the windows on each spatial axis divide the output's size.
derivative: Of the pooling and of all that is elementwise before it, [N, output spatial..., O].
gradient: [C, N, input_size..., channels].
input_size: The spatial axes of the convolution's input.
strides: One for each spatial axis, at least 1.
dilations: One for each spatial axis, at least 1.
padding: As in Keras; CAUSAL only with one spatial axis.
groups: Divides the channels and O; group g of the outputs sees group g of the channels.
)doc");

template <typename Device, typename T>
class PooledConvInputGradientOp : public tensorflow::OpKernel {
 public:
  explicit PooledConvInputGradientOp(tensorflow::OpKernelConstruction* context)
      : tensorflow::OpKernel(context) {
    OP_REQUIRES_OK(context, read_attributes(context, &options_, &input_size_));
  }

  void Compute(tensorflow::OpKernelContext* context) override {
    cpu::ConvShape shape;
    cpu::PooledFactors<T> factors{};
    OP_REQUIRES_OK(
        context, status_of(cpu::check_pooled_conv_input_gradient(
                     shape_of(context->input(0)), shape_of(context->input(1)),
                     shape_of(context->input(2)), input_size_, options_, &shape, factors.windows)));
    factors.values = data_of<T>(context->input(1));
    factors.derivative = data_of<T>(context->input(2));
    tensorflow::Tensor* gradient;
    OP_REQUIRES_OK(context,
                   context->allocate_output(0, gradient_shape(shape, input_size_), &gradient));
    const cpu::ConvInputGradient<T> convolution{shape, data_of<T>(context->input(0)), factors,
                                                gradient->flat<T>().data()};
    OP_REQUIRES_OK(context, Contraction<Device>::run(context, convolution));
  }

 private:
  cpu::ConvOptions options_;
  cpu::Shape input_size_;
};

#define REGISTER(D, T)                                           \
  REGISTER_KERNEL_BUILDER(Name("Prospr>PooledConvInputGradient") \
                              .Device(tensorflow::DEVICE_##D)    \
                              .TypeConstraint<T>("T"),           \
                          PooledConvInputGradientOp<D, T>)
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
