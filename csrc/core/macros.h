#pragma once

// Before a loop: its iterations do not depend on one another, whatever the pointers look like.
#if defined(__clang__)
#define PROSPR_NO_ALIAS _Pragma("clang loop vectorize(assume_safety)")
#else
#define PROSPR_NO_ALIAS _Pragma("GCC ivdep")
#endif

// PROSPR_HD marks a function of csrc/core: it runs on the host and, under nvcc, on the device.
//
// Always inlined with internal linkage: the same header is compiled once for each instruction set,
// and a shared out-of-line copy could be the one with instructions this machine does not have.
#if defined(__CUDACC__)
#define PROSPR_HD static __host__ __device__ __forceinline__
#else
#define PROSPR_HD static inline __attribute__((always_inline))
#endif
