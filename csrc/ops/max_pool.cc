#include "ops/pooling.h"
#include "tensorflow/core/framework/op.h"

namespace prospr::ops {

REGISTER_OP("Prospr>MaxPool")
    .Input("image: T")
    .Output("maxima: T")
    .Output("positions: uint8")
    .Attr("window: list(int)")
    .Attr("T: {float, double}")
    .SetShapeFn([](tensorflow::shape_inference::InferenceContext* context) -> absl::Status {
      tensorflow::shape_inference::ShapeHandle shape;
      TF_RETURN_IF_ERROR(windows_shape(context, context->input(0), &shape));
      context->set_output(0, shape);
      context->set_output(1, shape);
      return absl::OkStatus();
    })
    .Doc(R"doc(
The largest element of each window of an image, and where in the window it is.

The windows do not overlap and tile the image from the upper left; rows and columns that do not fill
a window belong to none. Of equal elements the first is taken, row by row; a NaN is larger than any
number, and of several the last is taken. The result is the same bits for every number of threads.

image: [N, H, W, C], no smaller than a window.
window: its height h and width w, of 1 to 256 elements.
maxima: [N, H / h, W / w, C], rounded down.
positions: i * w + j for the element in row i and column j of its window.
)doc");

template <typename T>
class MaxPoolOp : public tensorflow::OpKernel {
 public:
  explicit MaxPoolOp(tensorflow::OpKernelConstruction* context) : OpKernel(context) {
    OP_REQUIRES_OK(context, read_pair(context, "window", &window_));
  }

  void Compute(tensorflow::OpKernelContext* context) override {
    const tensorflow::Tensor& image = context->input(0);
    cpu::Windows windows;
    tensorflow::TensorShape shape;
    OP_REQUIRES_OK(context, read_windows(image.shape(), window_, &windows, &shape));
    tensorflow::Tensor* maxima;
    tensorflow::Tensor* positions;
    OP_REQUIRES_OK(context, context->allocate_output(0, shape, &maxima));
    OP_REQUIRES_OK(context, context->allocate_output(1, shape, &positions));
    run_pooling(context, windows,
                cpu::MaxPool<T>{image.flat<T>().data(), maxima->flat<T>().data(),
                                positions->flat<std::uint8_t>().data()});
  }

 private:
  std::vector<std::int64_t> window_;
};

#define REGISTER(T)        \
  REGISTER_KERNEL_BUILDER( \
      Name("Prospr>MaxPool").Device(tensorflow::DEVICE_CPU).TypeConstraint<T>("T"), MaxPoolOp<T>)
REGISTER(float);
REGISTER(double);
#undef REGISTER

}  // namespace prospr::ops
