// Runs the text of CUDA kernels on the CPU, block after block, for tests and for machines without a GPU.
//
// The threads of a block are coroutines, each of which runs to the next __syncthreads(). Even blocks run
// them in ascending order and odd blocks in descending order, so that a missing __syncthreads() shows in
// the result. If the first thread of a block never waits, the others run in a plain loop.
#include <ucontext.h>
#include <cmath>
#include <cstdint>
#include <functional>
#include <stdexcept>
#include <vector>

namespace cuda_on_cpu {

constexpr int THREADS = 256, STACK = 1 << 16;

struct Index { unsigned x; };
static Index blockIdx, threadIdx;

struct Block {
    ucontext_t outside, threads[THREADS];
    bool done[THREADS], waited;
    std::vector<char> stacks;
    std::function<void()> body;
};
static Block* block = nullptr;

static void wait_for_block() {
    if (!block) throw std::runtime_error("some threads of a block wait, others do not");
    block->waited = true;
    swapcontext(&block->threads[threadIdx.x], &block->outside);
}

static void run_thread() {
    block->body();
    block->done[threadIdx.x] = true;
}

static void run_coroutine(int thread) {
    threadIdx.x = thread;
    swapcontext(&block->outside, &block->threads[thread]);
}

static void prepare(int thread) {
    ucontext_t& context = block->threads[thread];
    getcontext(&context);
    context.uc_stack.ss_sp = &block->stacks[size_t(thread) * STACK];
    context.uc_stack.ss_size = STACK;
    context.uc_link = &block->outside;
    makecontext(&context, run_thread, 0);
    block->done[thread] = false;
}

static void run(int64_t blocks, const std::function<void()>& body) {
    static Block memory;
    memory.stacks.resize(size_t(THREADS) * STACK);
    memory.body = body;
    for (int64_t b = 0; b < blocks; ++b) {
        block = &memory;
        memory.waited = false;
        blockIdx.x = b;
        const auto thread_at = [&](int i) { return b % 2 ? THREADS - 1 - i : i; };
        prepare(thread_at(0));
        run_coroutine(thread_at(0));
        if (!memory.waited) {
            block = nullptr;
            for (int i = 1; i < THREADS; ++i) {
                threadIdx.x = thread_at(i);
                body();
            }
            continue;
        }
        for (int i = 1; i < THREADS; ++i) {
            prepare(thread_at(i));
            run_coroutine(thread_at(i));
        }
        for (bool any = true; any;) {
            any = false;
            for (int i = 0; i < THREADS; ++i)
                if (!memory.done[thread_at(i)]) {
                    any = true;
                    run_coroutine(thread_at(i));
                }
        }
    }
    block = nullptr;
}

}  // namespace cuda_on_cpu

#define __global__ [[maybe_unused]] static
#define __device__
#define __shared__ static
#define __syncthreads cuda_on_cpu::wait_for_block
#define LAUNCH(kernel, blocks, ...) \
    cuda_on_cpu::run(blocks, [&] { kernel(__VA_ARGS__); })
using cuda_on_cpu::blockIdx;
using cuda_on_cpu::threadIdx;
