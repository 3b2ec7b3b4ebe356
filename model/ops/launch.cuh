// Starts a kernel on the GPU: LAUNCH((name<template arguments>), blocks, arguments...);
#include <stdexcept>
#include <string>

#define LAUNCH(kernel, blocks, ...)                                                      \
    do {                                                                                 \
        kernel<<<(blocks), 256>>>(__VA_ARGS__);                                          \
        if (cudaPeekAtLastError() != cudaSuccess)                                        \
            throw std::runtime_error(std::string(#kernel ": ")                           \
                                     + cudaGetErrorString(cudaGetLastError()));          \
    } while (0)
