// Shared by all kernels: planes of values are dealt out to blocks of threads, and sums over a block are
// taken in a fixed order, without atomics. In .cuh files a block is one of threads, not of channels.
#include <cmath>
#include <cstdint>

constexpr int THREADS = 256;    // threads per block
constexpr int SEGMENT = 4096;   // most values per block

// N·C planes of H·W values, each cut into segments; one block takes one segment.
struct Planes {
    int64_t count;
    int size, segments;
    Planes(int64_t count, int64_t size)
        : count(count), size(int(size)), segments(int((size + SEGMENT - 1) / SEGMENT)) {}
    int64_t blocks() const { return count * segments; }
};

// The values of a block: [first, last) of its plane. The plane begins at x[base].
struct Segment {
    int64_t plane, base;
    int first, last;
    __device__ explicit Segment(const Planes& p)
        : plane(blockIdx.x / p.segments), base(plane * p.size),
          first(int(blockIdx.x % p.segments) * SEGMENT),
          last(first + SEGMENT < p.size ? first + SEGMENT : p.size) {}
};

inline int64_t blocks_for(int64_t threads) { return (threads + THREADS - 1) / THREADS; }

__device__ inline int64_t thread_of_grid() {
    return int64_t(blockIdx.x) * THREADS + threadIdx.x;
}

// Replaces each of K values by its sum over the threads of the block.
template <int K>
__device__ void sum_over_block(double (&value)[K]) {
    constexpr int LAST = 16;  // partial sums, which every thread adds up at the end
    __shared__ double of_threads[K][THREADS], part[K][LAST];
    const int thread = threadIdx.x;
    for (int k = 0; k < K; ++k) of_threads[k][thread] = value[k];
    __syncthreads();
    if (thread < LAST)
        for (int k = 0; k < K; ++k) {
            double sum = 0;
            for (int i = thread; i < THREADS; i += LAST) sum += of_threads[k][i];
            part[k][thread] = sum;
        }
    __syncthreads();
    for (int k = 0; k < K; ++k) {
        value[k] = 0;
        for (int i = 0; i < LAST; ++i) value[k] += part[k][i];
    }
}
