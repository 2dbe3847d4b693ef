// Convolutions, their gradients and matrix products by oneDNN, and max pooling's gradient, as XLA
// foreign functions: fp32, on CPU.
//
// Images are (batch, height, width, channels), kernels (height, width, in / groups, out), as XLA
// has them. Kernels are reordered to the layout that oneDNN prefers, which costs little: they are
// small beside the images. Primitives come from oneDNN's own cache after their first use.

#include <algorithm>
#include <cstdint>
#include <exception>
#include <string>
#include <utility>

#include "oneapi/dnnl/dnnl.hpp"
#include "xla/ffi/api/ffi.h"

namespace {

namespace ffi = xla::ffi;
using dnnl::memory;
using Array = ffi::Buffer<ffi::F32>;
using Output = ffi::Result<Array>;
constexpr auto kMethod = dnnl::algorithm::convolution_direct;
constexpr auto kFloat = memory::data_type::f32;

const dnnl::engine& cpu() {
  static const dnnl::engine engine(dnnl::engine::kind::cpu, 0);
  return engine;
}

// One convolution: its arrays' memory layouts, and the kernel's layout left open.
struct Convolution {
  memory::desc images, kernel, bias, outputs, any_kernel;
  memory::dims strides, padding;

  Convolution(const Array& x, const Array& k, const Array& y, int64_t stride, int64_t pad,
              int64_t groups)
      : images(image(x)), outputs(image(y)), strides{stride, stride}, padding{pad, pad} {
    const auto size = k.dimensions();  // height, width, in a group, out
    const int64_t in = size[2], all = size[3], out = all / groups;
    memory::dims shape{groups, out, in, size[0], size[1]};
    memory::dims steps{out, 1, all, size[1] * in * all, in * all};
    if (groups == 1) {
      shape.erase(shape.begin());
      steps.erase(steps.begin());
    }
    kernel = memory::desc(shape, kFloat, steps);
    any_kernel = memory::desc(shape, kFloat, memory::format_tag::any);
    bias = memory::desc({all}, kFloat, memory::format_tag::x);
  }

  dnnl::convolution_forward::primitive_desc forward() const {
    return {cpu(), dnnl::prop_kind::forward_training, kMethod, images, any_kernel, bias,
            outputs, strides, padding, padding};
  }

 private:
  static memory::desc image(const Array& array) {
    const auto size = array.dimensions();
    return {{size[0], size[3], size[1], size[2]}, kFloat, memory::format_tag::nhwc};
  }
};

memory view(const memory::desc& desc, const Array& array) {
  return memory(desc, cpu(), const_cast<float*>(array.typed_data()));
}

memory reordered(dnnl::stream& stream, memory from, const memory::desc& desc) {
  if (from.get_desc() == desc) return from;
  memory to(desc, cpu());
  dnnl::reorder(from, to).execute(stream, from, to);
  return to;
}

template <typename Work>
ffi::Error guarded(Work work) {
  try {
    dnnl::stream stream(cpu());
    work(stream);
    stream.wait();
    return ffi::Error::Success();
  } catch (const std::exception& error) {
    return ffi::Error::Internal(std::string("oneDNN: ") + error.what());
  }
}

ffi::Error Forward(Array x, Array k, Array b, Output y, int64_t stride, int64_t padding,
                   int64_t groups) {
  return guarded([&](dnnl::stream& stream) {
    const Convolution conv(x, k, *y, stride, padding, groups);
    const auto plan = conv.forward();
    memory kernel = reordered(stream, view(conv.kernel, k), plan.weights_desc());
    dnnl::convolution_forward(plan).execute(stream, {{DNNL_ARG_SRC, view(conv.images, x)},
                                                     {DNNL_ARG_WEIGHTS, kernel},
                                                     {DNNL_ARG_BIAS, view(conv.bias, b)},
                                                     {DNNL_ARG_DST, view(conv.outputs, *y)}});
  });
}

ffi::Error InputGradient(Array g, Array k, Output dx, int64_t stride, int64_t padding,
                         int64_t groups) {
  return guarded([&](dnnl::stream& stream) {
    const Convolution conv(*dx, k, g, stride, padding, groups);
    const dnnl::convolution_backward_data::primitive_desc plan(
        cpu(), kMethod, conv.images, conv.any_kernel, conv.outputs, conv.strides, conv.padding,
        conv.padding, conv.forward());
    memory kernel = reordered(stream, view(conv.kernel, k), plan.weights_desc());
    dnnl::convolution_backward_data(plan).execute(
        stream, {{DNNL_ARG_DIFF_DST, view(conv.outputs, g)},
                 {DNNL_ARG_WEIGHTS, kernel},
                 {DNNL_ARG_DIFF_SRC, view(conv.images, *dx)}});
  });
}

ffi::Error KernelGradient(Array x, Array g, Output dk, Output db, int64_t stride, int64_t padding,
                          int64_t groups) {
  return guarded([&](dnnl::stream& stream) {
    const Convolution conv(x, *dk, g, stride, padding, groups);
    const dnnl::convolution_backward_weights::primitive_desc plan(
        cpu(), kMethod, conv.images, conv.any_kernel, conv.bias, conv.outputs, conv.strides,
        conv.padding, conv.padding, conv.forward());
    const memory wanted = view(conv.kernel, *dk);
    memory found = plan.diff_weights_desc() == conv.kernel
                       ? wanted
                       : memory(plan.diff_weights_desc(), cpu());
    dnnl::convolution_backward_weights(plan).execute(
        stream, {{DNNL_ARG_SRC, view(conv.images, x)},
                 {DNNL_ARG_DIFF_DST, view(conv.outputs, g)},
                 {DNNL_ARG_DIFF_WEIGHTS, found},
                 {DNNL_ARG_DIFF_BIAS, view(conv.bias, *db)}});
    if (found.get_desc() != conv.kernel) {
      memory to = wanted;
      dnnl::reorder(found, to).execute(stream, found, to);
    }
  });
}

memory::desc matrix(const Array& array, bool turned) {
  const auto size = array.dimensions();
  if (turned) return {{size[1], size[0]}, kFloat, memory::format_tag::ba};
  return {{size[0], size[1]}, kFloat, memory::format_tag::ab};
}

ffi::Error Product(Array a, Array b, Output c, bool turned) {
  return guarded([&](dnnl::stream& stream) {
    const auto first = matrix(a, false), second = matrix(b, turned);
    const auto result = matrix(*c, false);
    const dnnl::matmul::primitive_desc plan(cpu(), first, second, result);
    dnnl::matmul(plan).execute(stream, {{DNNL_ARG_SRC, view(first, a)},
                                        {DNNL_ARG_WEIGHTS, view(second, b)},
                                        {DNNL_ARG_DST, view(result, *c)}});
  });
}

// Max pooling's gradient for one image: the first of a window's maxima, in row order, gets it.
// oneDNN's own needs a map of positions from its forward pass, which ignores NaN.
struct Pooling {
  int64_t height, width, channels, rows, columns, window, stride;

  void spread(const float* x, const float* y, const float* gradients, float* result) const {
    std::fill_n(result, height * width * channels, 0.0f);
    for (int64_t p = 0; p < rows; ++p) {
      for (int64_t q = 0; q < columns; ++q) {
        for (int64_t c = 0; c < channels; c += kChunk) {
          const int64_t at = (p * columns + q) * channels + c;
          one_window(p, q, std::min(kChunk, channels - c), x + c, y + at, gradients + at, result + c);
        }
      }
    }
  }

 private:
  static constexpr int64_t kChunk = 256;  // channels at a time, on the stack: the heap may run out

  void one_window(int64_t p, int64_t q, int64_t count, const float* x, const float* y,
                  const float* gradient, float* result) const {
    float left[kChunk];  // of the window's gradient
    std::copy_n(gradient, count, left);
    const int64_t bottom = std::min(p * stride + window, height);
    const int64_t right = std::min(q * stride + window, width);
    for (int64_t row = p * stride; row < bottom; ++row) {
      for (int64_t column = q * stride; column < right; ++column) {
        const int64_t at = (row * width + column) * channels;
        give(count, x + at, y, left, result + at);
      }
    }
  }

  // A loop that compilers turn into vector instructions, given -fno-trapping-math.
  static void give(int64_t count, const float* __restrict x, const float* __restrict y,
                   float* __restrict left, float* __restrict result) {
    for (int64_t c = 0; c < count; ++c) {
      const bool wins = x[c] == y[c];
      result[c] += wins ? left[c] : 0.0f;
      left[c] = wins ? 0.0f : left[c];
    }
  }
};

ffi::Error PoolGradient(Array x, Array y, Array g, Output dx, int64_t window, int64_t stride) {
  const auto from = x.dimensions(), to = y.dimensions();
  const Pooling pooling{from[1], from[2], from[3], to[1], to[2], window, stride};
  const int64_t input = from[1] * from[2] * from[3], output = to[1] * to[2] * to[3];
#pragma omp parallel for
  for (int64_t i = 0; i < from[0]; ++i) {
    pooling.spread(x.typed_data() + i * input, y.typed_data() + i * output,
                   g.typed_data() + i * output, dx->typed_data() + i * input);
  }
  return ffi::Error::Success();
}

// The attributes that all three convolution functions take besides their arrays.
template <typename Binding>
auto with_geometry(Binding arrays) {
  return std::move(arrays)
      .template Attr<int64_t>("stride")
      .template Attr<int64_t>("padding")
      .template Attr<int64_t>("groups");
}

}  // namespace

XLA_FFI_DEFINE_HANDLER_SYMBOL(
    AlexNetConvolution, Forward,
    with_geometry(ffi::Ffi::Bind().Arg<Array>().Arg<Array>().Arg<Array>().Ret<Array>()));

XLA_FFI_DEFINE_HANDLER_SYMBOL(
    AlexNetInputGradient, InputGradient,
    with_geometry(ffi::Ffi::Bind().Arg<Array>().Arg<Array>().Ret<Array>()));

XLA_FFI_DEFINE_HANDLER_SYMBOL(
    AlexNetKernelGradient, KernelGradient,
    with_geometry(ffi::Ffi::Bind().Arg<Array>().Arg<Array>().Ret<Array>().Ret<Array>()));

XLA_FFI_DEFINE_HANDLER_SYMBOL(
    AlexNetProduct, Product,
    ffi::Ffi::Bind().Arg<Array>().Arg<Array>().Ret<Array>().Attr<bool>("turned"));

XLA_FFI_DEFINE_HANDLER_SYMBOL(AlexNetPoolGradient, PoolGradient,
                              ffi::Ffi::Bind()
                                  .Arg<Array>()
                                  .Arg<Array>()
                                  .Arg<Array>()
                                  .Ret<Array>()
                                  .Attr<int64_t>("window")
                                  .Attr<int64_t>("stride"));
