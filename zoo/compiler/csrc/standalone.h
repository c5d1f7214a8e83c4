// The parts of torch's C++ runtime that the body of an Inductor graph uses, without headers that are
// slow to compile.
//
// A tensor is a pointer with its layout. Buffers too large for the stack are kept between runs, one
// set per thread.
#pragma once
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <new>
#include <stdexcept>
#include <type_traits>
#include <utility>
#include <vector>

extern "C" {
int32_t aoti_torch_cpu_mm_out(AtenTensorHandle, AtenTensorHandle, AtenTensorHandle);
int32_t aoti_torch_cpu_bmm_out(AtenTensorHandle, AtenTensorHandle, AtenTensorHandle);
int32_t aoti_torch_cpu_addmm_out(AtenTensorHandle, AtenTensorHandle, AtenTensorHandle, AtenTensorHandle, double, double);
int32_t aoti_torch_cpu_baddbmm_out(AtenTensorHandle, AtenTensorHandle, AtenTensorHandle, AtenTensorHandle, double, double);
int32_t aoti_torch_cpu_cumsum(AtenTensorHandle, int64_t, int32_t*, AtenTensorHandle*);
int32_t aoti_torch_cpu_cumprod(AtenTensorHandle, int64_t, int32_t*, AtenTensorHandle*);
int32_t aoti_torch_cpu_cholesky_solve(AtenTensorHandle, AtenTensorHandle, int32_t, AtenTensorHandle*);
}

namespace zoo {

// c10::ScalarType
constexpr int32_t cached_torch_dtype_uint8 = 0, cached_torch_dtype_int8 = 1, cached_torch_dtype_int16 = 2, cached_torch_dtype_int32 = 3,
                  cached_torch_dtype_int64 = 4, cached_torch_dtype_float32 = 6, cached_torch_dtype_float64 = 7, cached_torch_dtype_bool = 11;
constexpr int32_t cached_torch_device_type_cpu = 0;

template <class T> constexpr int32_t code_of();
template <> constexpr int32_t code_of<double>() { return cached_torch_dtype_float64; }
template <> constexpr int32_t code_of<float>() { return cached_torch_dtype_float32; }
template <> constexpr int32_t code_of<int64_t>() { return cached_torch_dtype_int64; }
template <> constexpr int32_t code_of<int32_t>() { return cached_torch_dtype_int32; }
template <> constexpr int32_t code_of<int16_t>() { return cached_torch_dtype_int16; }
template <> constexpr int32_t code_of<int8_t>() { return cached_torch_dtype_int8; }
template <> constexpr int32_t code_of<uint8_t>() { return cached_torch_dtype_uint8; }
template <> constexpr int32_t code_of<bool>() { return cached_torch_dtype_bool; }

inline int64_t width(int32_t code) {
  switch (code) {
    case cached_torch_dtype_float64: case cached_torch_dtype_int64: return 8;
    case cached_torch_dtype_float32: case cached_torch_dtype_int32: return 4;
    case cached_torch_dtype_int16: return 2;
    case cached_torch_dtype_uint8: case cached_torch_dtype_int8: case cached_torch_dtype_bool: return 1;
  }
  throw std::runtime_error("a type of numbers that is not handed over");
}

constexpr size_t KEPT = size_t(64) << 20;  // bytes of buffers a thread keeps between runs

struct Arena {
  struct Block { void* data; size_t bytes; };
  std::vector<Block> blocks;
  std::vector<AtenTensorHandle> handles;
  size_t next = 0, total = 0;
  void* take(size_t bytes) {
    if (next == blocks.size()) blocks.push_back({nullptr, 0});
    Block& block = blocks[next++];
    if (block.bytes < bytes) {
      std::free(block.data);
      total -= block.bytes;
      block = {std::aligned_alloc(64, (bytes + 63) / 64 * 64), bytes};
      if (!block.data) { block.bytes = 0; throw std::bad_alloc(); }
      total += bytes;
    }
    return block.data;
  }
  void empty() {
    for (Block& block : blocks) std::free(block.data);
    blocks.clear();
    total = 0;
  }
  ~Arena() { empty(); }
};
inline thread_local Arena arena;

struct Run {  // one call of the graph
  ~Run() {
    if (!arena.handles.empty()) {
      for (AtenTensorHandle handle : arena.handles) aoti_torch_delete_tensor_object(handle);
      arena.handles.clear();
    }
    if (arena.next) {
      arena.next = 0;
      if (arena.total > KEPT) arena.empty();
    }
  }
};

struct Tensor {
  void* at;
  const int64_t* sizes;
  const int64_t* strides;
  int64_t ndim;
  int32_t dtype;
  void reset() {}
};
using AtenTensorHandle = Tensor;
using RAIIAtenTensorHandle = Tensor;

template <class T> struct ArrayRefTensor : Tensor {
  explicit ArrayRefTensor(const Tensor& x) : Tensor(x) {}
  template <size_t N, class S, class U>  // sizes and strides are arrays, or null pointers for a scalar
  ArrayRefTensor(T (&storage)[N], const S& sizes, const U& strides, int32_t, int32_t)
      : Tensor{storage, sizes, strides, std::is_array_v<S> ? int64_t(std::extent_v<S>) : 0, code_of<T>()} {}
};

// `layout`: number of axes, sizes, strides.
template <class T> ArrayRefTensor<T> input(const void* data, const int64_t* layout) {
  return ArrayRefTensor<T>(Tensor{const_cast<void*>(data), layout + 1, layout + 1 + layout[0], layout[0], code_of<T>()});
}
template <class T> T* get_data_ptr_wrapper(const ArrayRefTensor<T>& x) { return static_cast<T*>(x.at); }
inline void* get_data_ptr_wrapper(const Tensor& x) { return x.at; }
template <class X> void assert_numel(const X&, int64_t) {}
template <class X> X wrap_with_raii_handle_if_needed(const X& x) { return x; }
template <class X> X reinterpret_tensor_wrapper(const X& x, int64_t ndim, const int64_t* sizes, const int64_t* strides, int64_t offset) {
  X out(x);
  out.at = static_cast<char*>(x.at) + offset * width(x.dtype);
  out.ndim = ndim, out.sizes = sizes, out.strides = strides;
  return out;
}

inline bool dense(const Tensor& x) {
  int64_t count = 1;
  for (int64_t i = x.ndim - 1; i >= 0; count *= x.sizes[i--])
    if (x.sizes[i] != 1 && x.strides[i] != count) return false;
  return true;
}
inline int64_t count(const Tensor& x) {
  int64_t out = 1;
  for (int64_t i = 0; i < x.ndim; i++) out *= x.sizes[i];
  return out;
}
inline int32_t aoti_torch_empty_strided(
    int64_t ndim, const int64_t* sizes, const int64_t* strides, int32_t dtype, int32_t, int32_t, Tensor* out) {
  *out = {nullptr, sizes, strides, ndim, dtype};
  int64_t last = count(*out) - 1;
  if (last > 0) {
    last = 0;
    for (int64_t i = 0; i < ndim; i++) last += (sizes[i] - 1) * strides[i];
  }
  out->at = arena.take(static_cast<size_t>((last + 1) * width(dtype)) + 64);
  return 0;
}
// The buffer of an output: where the caller wants it, if it has the caller's layout.
inline int32_t given(
    int64_t ndim, const int64_t* sizes, const int64_t* strides, int32_t dtype, int32_t type, int32_t index, void* to, Tensor* out) {
  *out = {to, sizes, strides, ndim, dtype};
  return dense(*out) ? 0 : aoti_torch_empty_strided(ndim, sizes, strides, dtype, type, index, out);
}

inline int32_t aoti_torch_new_tensor_handle(const Tensor& x, Tensor* out) {
  *out = x;
  return 0;
}

inline char* copy(char* to, const char* from, const Tensor& x, int64_t axis, int64_t bytes) {
  if (axis == x.ndim) {
    std::memcpy(to, from, bytes);
    return to + bytes;
  }
  for (int64_t i = 0; i < x.sizes[axis]; i++) to = copy(to, from + i * x.strides[axis] * bytes, x, axis + 1, bytes);
  return to;
}
inline void output(const Tensor& x, void* to) {
  if (x.at == to) return;
  const int64_t bytes = width(x.dtype);
  if (dense(x)) std::memcpy(to, x.at, count(x) * bytes);
  else copy(static_cast<char*>(to), static_cast<const char*>(x.at), x, 0, bytes);
}

// Operations of torch: it borrows tensors for one call; what it returns lives until the run ends.
#undef AOTI_TORCH_ERROR_CODE_CHECK
#define AOTI_TORCH_ERROR_CODE_CHECK(call) \
  if (call) throw std::runtime_error(#call)

struct Lent {
  ::AtenTensorHandle handle = nullptr;
  Lent(const Tensor& x) {  // NOLINT: bodies pass tensors where torch takes handles
    AOTI_TORCH_ERROR_CODE_CHECK(
        ::aoti_torch_create_tensor_from_blob(x.at, x.ndim, x.sizes, x.strides, 0, x.dtype, cached_torch_device_type_cpu, 0, &handle));
  }
  Lent(const Lent&) = delete;
  ~Lent() { ::aoti_torch_delete_tensor_object(handle); }
};
inline Lent borrow_arrayref_tensor_as_tensor(const Tensor& x) { return Lent(x); }

inline void kept(::AtenTensorHandle handle, Tensor* out) {
  arena.handles.push_back(handle);
  int64_t *sizes = nullptr, *strides = nullptr;
  AOTI_TORCH_ERROR_CODE_CHECK(::aoti_torch_get_data_ptr(handle, &out->at));
  AOTI_TORCH_ERROR_CODE_CHECK(::aoti_torch_get_sizes(handle, &sizes));
  AOTI_TORCH_ERROR_CODE_CHECK(::aoti_torch_get_strides(handle, &strides));
  AOTI_TORCH_ERROR_CODE_CHECK(::aoti_torch_get_dim(handle, &out->ndim));
  AOTI_TORCH_ERROR_CODE_CHECK(::aoti_torch_get_dtype(handle, &out->dtype));
  out->sizes = sizes, out->strides = strides;
}
#define ZOO_INTO(name) \
  inline int32_t aoti_torch_cpu_##name##_out(const Lent& out, const Lent& a, const Lent& b) { \
    return ::aoti_torch_cpu_##name##_out(out.handle, a.handle, b.handle); \
  }
#define ZOO_ADDED(name) \
  inline int32_t aoti_torch_cpu_##name##_out(const Lent& out, const Lent& c, const Lent& a, const Lent& b, double beta, double alpha) { \
    return ::aoti_torch_cpu_##name##_out(out.handle, c.handle, a.handle, b.handle, beta, alpha); \
  }
#define ZOO_RUNNING(name) \
  inline int32_t aoti_torch_cpu_##name(const Lent& x, int64_t axis, int32_t* dtype, Tensor* out) { \
    ::AtenTensorHandle handle = nullptr; \
    const int32_t code = ::aoti_torch_cpu_##name(x.handle, axis, dtype, &handle); \
    if (!code) kept(handle, out); \
    return code; \
  }
ZOO_INTO(mm)
ZOO_INTO(bmm)
ZOO_ADDED(addmm)
ZOO_ADDED(baddbmm)
ZOO_RUNNING(cumsum)
ZOO_RUNNING(cumprod)
inline int32_t aoti_torch_cpu_cholesky_solve(const Lent& b, const Lent& factor, int32_t upper, Tensor* out) {
  ::AtenTensorHandle handle = nullptr;
  const int32_t code = ::aoti_torch_cpu_cholesky_solve(b.handle, factor.handle, upper, &handle);
  if (!code) kept(handle, out);
  return code;
}

}  // namespace zoo
