#include "ops/pooling.h"
#include "tensorflow/core/framework/op.h"

namespace prospr::ops {

REGISTER_OP("Prospr>MaxUnpool")
    .Input("values: T")
    .Input("positions: uint8")
    .Output("image: T")
    .Attr("window: list(int)")
    .Attr("size: list(int)")
    .Attr("T: {float, double}")
    .SetShapeFn([](tensorflow::shape_inference::InferenceContext* context) -> absl::Status {
      std::vector<std::int64_t> size;
      TF_RETURN_IF_ERROR(read_pair(context, "size", &size));
      tensorflow::shape_inference::ShapeHandle image;
      TF_RETURN_IF_ERROR(context->WithRank(context->input(0), 4, &image));
      TF_RETURN_IF_ERROR(context->Merge(image, context->input(1), &image));
      for (int axis = 0; axis < 2; ++axis) {
        TF_RETURN_IF_ERROR(
            context->ReplaceDim(image, axis + 1, context->MakeDim(size[axis]), &image));
      }
      context->set_output(0, image);
      return absl::OkStatus();
    })
    .Doc(R"doc(
An image of zeros, but for the value of each window at its position: the gradient of MaxPool.

Windows and positions are those of MaxPool; a position that is not in the window is nowhere. The
result is the same bits for every number of threads.

values: [N, H / h, W / w, C], rounded down.
positions: In the shape of values.
window: its height h and width w, of 1 to 256 elements.
size: H and W, no smaller than a window.
image: [N, H, W, C].
)doc");

template <typename T>
class MaxUnpoolOp : public tensorflow::OpKernel {
 public:
  explicit MaxUnpoolOp(tensorflow::OpKernelConstruction* context) : OpKernel(context) {
    OP_REQUIRES_OK(context, read_pair(context, "window", &window_));
    OP_REQUIRES_OK(context, read_pair(context, "size", &size_));
  }

  void Compute(tensorflow::OpKernelContext* context) override {
    const tensorflow::Tensor& values = context->input(0);
    const tensorflow::Tensor& positions = context->input(1);
    OP_REQUIRES_OK(context, check_axes("values", values, 4));
    tensorflow::TensorShape image;
    OP_REQUIRES_OK(context,
                   tensorflow::TensorShape::BuildTensorShape(
                       {values.dim_size(0), size_[0], size_[1], values.dim_size(3)}, &image));
    cpu::Windows windows;
    tensorflow::TensorShape shape;
    OP_REQUIRES_OK(context, read_windows(image, window_, &windows, &shape));
    OP_REQUIRES_OK(context, check_shape("values", values, shape));
    OP_REQUIRES_OK(context, check_shape("positions", positions, shape));
    tensorflow::Tensor* output;
    OP_REQUIRES_OK(context, context->allocate_output(0, image, &output));
    run_pooling(context, windows,
                cpu::MaxUnpool<T>{values.flat<T>().data(), positions.flat<std::uint8_t>().data(),
                                  output->flat<T>().data()});
  }

 private:
  std::vector<std::int64_t> window_;
  std::vector<std::int64_t> size_;
};

#define REGISTER(T)                                                                   \
  REGISTER_KERNEL_BUILDER(                                                            \
      Name("Prospr>MaxUnpool").Device(tensorflow::DEVICE_CPU).TypeConstraint<T>("T"), \
      MaxUnpoolOp<T>)
REGISTER(float);
REGISTER(double);
#undef REGISTER

}  // namespace prospr::ops
