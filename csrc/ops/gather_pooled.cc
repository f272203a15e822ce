#include "ops/pooling.h"
#include "tensorflow/core/framework/op.h"

namespace prospr::ops {

REGISTER_OP("Prospr>GatherPooled")
    .Input("image: T")
    .Input("positions: uint8")
    .Output("values: T")
    .Attr("window: list(int)")
    .Attr("T: {float, double}")
    .SetShapeFn([](tensorflow::shape_inference::InferenceContext* context) -> absl::Status {
      tensorflow::shape_inference::ShapeHandle shape;
      TF_RETURN_IF_ERROR(windows_shape(context, context->input(0), &shape));
      TF_RETURN_IF_ERROR(context->Merge(shape, context->input(1), &shape));
      context->set_output(0, shape);
      return absl::OkStatus();
    })
    .Doc(R"doc(
The element of an image at the position of each window: the gradient of MaxUnpool.

Windows and positions are those of MaxPool; where a position is not in the window, the value is zero.
The result is the same bits for every number of threads.

image: [N, H, W, C], no smaller than a window.
positions: [N, H / h, W / w, C], rounded down.
window: its height h and width w, of 1 to 256 elements.
values: In the shape of positions.
)doc");

template <typename T>
class GatherPooledOp : public tensorflow::OpKernel {
 public:
  explicit GatherPooledOp(tensorflow::OpKernelConstruction* context) : OpKernel(context) {
    OP_REQUIRES_OK(context, read_pair(context, "window", &window_));
  }

  void Compute(tensorflow::OpKernelContext* context) override {
    const tensorflow::Tensor& image = context->input(0);
    const tensorflow::Tensor& positions = context->input(1);
    cpu::Windows windows;
    tensorflow::TensorShape shape;
    OP_REQUIRES_OK(context, read_windows(image.shape(), window_, &windows, &shape));
    OP_REQUIRES_OK(context, check_shape("positions", positions, shape));
    tensorflow::Tensor* values;
    OP_REQUIRES_OK(context, context->allocate_output(0, shape, &values));
    run_pooling(context, windows,
                cpu::GatherPooled<T>{image.flat<T>().data(), positions.flat<std::uint8_t>().data(),
                                     values->flat<T>().data()});
  }

 private:
  std::vector<std::int64_t> window_;
};

#define REGISTER(T)                                                                      \
  REGISTER_KERNEL_BUILDER(                                                               \
      Name("Prospr>GatherPooled").Device(tensorflow::DEVICE_CPU).TypeConstraint<T>("T"), \
      GatherPooledOp<T>)
REGISTER(float);
REGISTER(double);
#undef REGISTER

}  // namespace prospr::ops
