// CUDA 13's cub, with three names that it dropped and Jittor writes.
#pragma once
#include_next <cub/cub.cuh>
#include <thrust/iterator/counting_iterator.h>
#include <thrust/iterator/transform_iterator.h>
namespace cub {
__device__ __forceinline__ unsigned LaneId() {
    unsigned lane;
    asm("mov.u32 %0, %%laneid;" : "=r"(lane));
    return lane;
}
template <class T> using CountingInputIterator = thrust::counting_iterator<T>;
template <class V, class F, class I>
using TransformInputIterator = thrust::transform_iterator<F, I, V, V>;
}
