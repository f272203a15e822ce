#include "kernels/pooling.h"

#include "ops/register.h"

namespace prospr::ops {
namespace {

// The shape of one value per window of an image.
absl::Status pooled_shape(InferenceContext* context, ShapeHandle image, ShapeHandle* shape) {
  Shape window;
  TF_RETURN_IF_ERROR(read_pair(context, "window", &window));
  TF_RETURN_IF_ERROR(context->WithRank(image, 4, shape));
  for (int axis = 0; axis < 2; ++axis) {
    DimensionHandle size;
    TF_RETURN_IF_ERROR(context->Divide(context->Dim(*shape, axis + 1), window[axis],
                                       /*evenly_divisible=*/false, &size));
    TF_RETURN_IF_ERROR(context->ReplaceDim(*shape, axis + 1, size, shape));
  }
  return absl::OkStatus();
}

// An op with the attribute `window`.
class WindowOp : public OpKernel {
 public:
  explicit WindowOp(OpKernelConstruction* context) : OpKernel(context) {
    OP_REQUIRES_OK(context, read_pair(context, "window", &window_));
  }

 protected:
  absl::Status read_windows(const Shape& image, Windows* windows) const {
    return status_of(check_image(image, window_[0], window_[1], windows));
  }

 private:
  Shape window_;
};

absl::Status check_pooled(const char* name, const Tensor& tensor, const Windows& windows) {
  return status_of(check_shape(name, shape_of(tensor), windows.pooled()));
}

}  // namespace

REGISTER_OP("Prospr>MaxPool")
    .Input("image: T")
    .Output("maxima: T")
    .Output("positions: uint8")
    .Attr("window: list(int)")
    .Attr("T: {float, double}")
    .SetShapeFn([](InferenceContext* context) -> absl::Status {
      ShapeHandle shape;
      TF_RETURN_IF_ERROR(pooled_shape(context, context->input(0), &shape));
      context->set_output(0, shape);
      context->set_output(1, shape);
      return absl::OkStatus();
    })
    .Doc(R"doc(
The largest element of each window of an image, and its position in the window.

The windows do not overlap and tile the image from the upper left; rows and columns that do not fill
a window belong to none. Of equal elements the first is taken, row by row; a NaN is larger than any
number, and of several the last is taken. The result is the same bits for every number of threads.

image: [N, H, W, C], no smaller than a window.
window: Height h and width w, of 1 to 256 elements.
maxima: [N, H / h, W / w, C], rounded down.
positions: i * w + j for the element in row i and column j of its window.
)doc");

template <typename Device, typename T>
class MaxPoolOp : public WindowOp {
 public:
  using WindowOp::WindowOp;

  void Compute(OpKernelContext* context) override {
    const Tensor& image = context->input(0);
    Windows windows;
    OP_REQUIRES_OK(context, read_windows(shape_of(image), &windows));
    MaxPool<T> map{data_of<T>(image), nullptr, nullptr};
    OP_REQUIRES_OK(context, allocate(context, 0, windows.pooled(), &map.maxima));
    OP_REQUIRES_OK(context, allocate(context, 1, windows.pooled(), &map.positions));
    OP_REQUIRES_OK(context, launch<Device>(context, windows, map));
  }
};
PROSPR_REGISTER(MaxPool, OnCpuAndGpu, Floats);

REGISTER_OP("Prospr>MaxUnpool")
    .Input("values: T")
    .Input("positions: uint8")
    .Output("image: T")
    .Attr("window: list(int)")
    .Attr("size: list(int)")
    .Attr("T: {float, double}")
    .SetShapeFn([](InferenceContext* context) -> absl::Status {
      Shape size;
      TF_RETURN_IF_ERROR(read_pair(context, "size", &size));
      ShapeHandle image;
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

Windows and positions are those of MaxPool; a value whose position is not in the window is dropped.
The result is the same bits for every number of threads.

values: [N, H / h, W / w, C], rounded down.
positions: In the shape of values.
window: Height h and width w, of 1 to 256 elements.
size: H and W, no smaller than a window.
image: [N, H, W, C].
)doc");

template <typename Device, typename T>
class MaxUnpoolOp : public WindowOp {
 public:
  explicit MaxUnpoolOp(OpKernelConstruction* context) : WindowOp(context) {
    OP_REQUIRES_OK(context, read_pair(context, "size", &size_));
  }

  void Compute(OpKernelContext* context) override {
    const Tensor& values = context->input(0);
    const Tensor& positions = context->input(1);
    OP_REQUIRES_OK(context, status_of(check_axes("values", shape_of(values), 4)));
    const Shape image{values.dim_size(0), size_[0], size_[1], values.dim_size(3)};
    Windows windows;
    OP_REQUIRES_OK(context, read_windows(image, &windows));
    OP_REQUIRES_OK(context, check_pooled("values", values, windows));
    OP_REQUIRES_OK(context, check_pooled("positions", positions, windows));
    MaxUnpool<T> map{data_of<T>(values), data_of<std::uint8_t>(positions), nullptr};
    OP_REQUIRES_OK(context, allocate(context, 0, image, &map.image));
    OP_REQUIRES_OK(context, launch<Device>(context, windows, map));
  }

 private:
  Shape size_;
};
PROSPR_REGISTER(MaxUnpool, OnCpuAndGpu, Floats);

REGISTER_OP("Prospr>GatherPooled")
    .Input("image: T")
    .Input("positions: uint8")
    .Output("values: T")
    .Attr("window: list(int)")
    .Attr("T: {float, double}")
    .SetShapeFn([](InferenceContext* context) -> absl::Status {
      ShapeHandle shape;
      TF_RETURN_IF_ERROR(pooled_shape(context, context->input(0), &shape));
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
window: Height h and width w, of 1 to 256 elements.
values: In the shape of positions.
)doc");

template <typename Device, typename T>
class GatherPooledOp : public WindowOp {
 public:
  using WindowOp::WindowOp;

  void Compute(OpKernelContext* context) override {
    const Tensor& image = context->input(0);
    const Tensor& positions = context->input(1);
    Windows windows;
    OP_REQUIRES_OK(context, read_windows(shape_of(image), &windows));
    OP_REQUIRES_OK(context, check_pooled("positions", positions, windows));
    GatherPooled<T> map{data_of<T>(image), data_of<std::uint8_t>(positions), nullptr};
    OP_REQUIRES_OK(context, allocate(context, 0, windows.pooled(), &map.values));
    OP_REQUIRES_OK(context, launch<Device>(context, windows, map));
  }
};
PROSPR_REGISTER(GatherPooled, OnCpuAndGpu, Floats);

}  // namespace prospr::ops
