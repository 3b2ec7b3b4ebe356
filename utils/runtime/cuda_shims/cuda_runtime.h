// CUDA 13 took computeMode and clockRate out of cudaDeviceProp; Jittor's helper_cuda.h reads them.
// Here they are again, as members of a derived type.
#pragma once
#include "real/cuda_runtime.h"
#if defined(__cplusplus) && !defined(cudaDeviceProp)
struct l2sknet_cuda_device_prop : cudaDeviceProp { int computeMode = 0, clockRate = 1; };
#define cudaDeviceProp l2sknet_cuda_device_prop
#endif
