// cuDNN 9 took out the RNN calls of its version 6, which Jittor's RNN operators still name: they
// compile, and fail when they are run. (No network here has an RNN.)
#pragma once
#include "real/cudnn.h"
#define L2SKNET_GONE(name) \
    template <class... A> inline cudnnStatus_t name(A&&...) { return CUDNN_STATUS_NOT_SUPPORTED; }
L2SKNET_GONE(cudnnSetRNNDescriptor_v6)
L2SKNET_GONE(cudnnGetRNNParamsSize)
L2SKNET_GONE(cudnnGetRNNWorkspaceSize)
L2SKNET_GONE(cudnnGetRNNTrainingReserveSize)
L2SKNET_GONE(cudnnGetRNNLinLayerMatrixParams)
L2SKNET_GONE(cudnnGetRNNLinLayerBiasParams)
L2SKNET_GONE(cudnnRNNForwardTraining)
L2SKNET_GONE(cudnnRNNForwardInference)
L2SKNET_GONE(cudnnRNNBackwardData)
L2SKNET_GONE(cudnnRNNBackwardWeights)
#undef L2SKNET_GONE
// Jittor asks for this where use_tensorcore is set. It would let cuDNN round to half precision; the
// default lets it round to TF32.
#define CUDNN_TENSOR_OP_MATH_ALLOW_CONVERSION CUDNN_DEFAULT_MATH
