// θ of an LLSKM and the kernels it makes, forward and backward, in double precision. Needs block.cuh.

namespace llskm {

// The parameters and running statistics of a batch norm over N values per channel.
struct Norm {
    const float *weight, *bias, *mean, *var;
};

// Where the running statistics after a step of training are written.
struct Running {
    float *mean, *var;
};

// Mean and 1/std of channel c: of the values x[n·stride + c] in training, else the running statistics.
__device__ inline void statistics(int64_t N, int64_t stride, const double* x, const Norm& norm,
                                  int64_t c, bool training, double momentum, double eps,
                                  double* mean, double* rstd, const Running& after) {
    double m = norm.mean[c], v = norm.var[c];
    if (training) {
        m = v = 0;
        for (int64_t n = 0; n < N; ++n) m += x[n * stride + c];
        m /= N;
        for (int64_t n = 0; n < N; ++n) v += (x[n * stride + c] - m) * (x[n * stride + c] - m);
        v /= N;
        after.mean[c] = float(norm.mean[c] * (1 - momentum) + m * momentum);
        after.var[c] = float(norm.var[c] * (1 - momentum) + v * N / (N - 1) * momentum);
    }
    mean[c] = m;
    rstd[c] = 1 / sqrt(v + eps);
}

// θ: 1×1 → norm → ReLU → 1×1 → norm → sigmoid, from N×C means to N×C weights with H hidden channels in
// between. One block. Kept for the gradient: a and b, the inputs of the two norms; r, the output of the
// ReLU; moments, H means and H of 1/std of the first norm, then C and C of the second.
__global__ void attention(int64_t C, int64_t H, int64_t N, const double* pooled, const float* first,
                          const float* second, Norm hidden, Norm last, bool training,
                          double momentum, double eps, double* theta, double* a, double* r,
                          double* b, double* moments, Running after_hidden,
                          Running after_last) {
    for (int64_t i = threadIdx.x; i < N * H; i += THREADS) {
        double sum = 0;
        for (int64_t c = 0; c < C; ++c) sum += first[i % H * C + c] * pooled[i / H * C + c];
        a[i] = sum;
    }
    __syncthreads();
    for (int64_t h = threadIdx.x; h < H; h += THREADS) {
        statistics(N, H, a, hidden, h, training, momentum, eps, moments, moments + H,
                   after_hidden);
        for (int64_t n = 0; n < N; ++n) {
            const double z = (a[n * H + h] - moments[h]) * moments[H + h] * hidden.weight[h]
                             + hidden.bias[h];
            r[n * H + h] = z <= 0 ? 0 : z;  // NaN stays
        }
    }
    __syncthreads();
    for (int64_t i = threadIdx.x; i < N * C; i += THREADS) {
        double sum = 0;
        for (int64_t h = 0; h < H; ++h) sum += second[i % C * H + h] * r[i / C * H + h];
        b[i] = sum;
    }
    __syncthreads();
    double* of_last = moments + 2 * H;
    for (int64_t c = threadIdx.x; c < C; c += THREADS) {
        statistics(N, C, b, last, c, training, momentum, eps, of_last, of_last + C, after_last);
        for (int64_t n = 0; n < N; ++n) {
            const double z = (b[n * C + c] - of_last[c]) * of_last[C + c] * last.weight[c]
                             + last.bias[c];
            theta[n * C + c] = 1 / (1 + exp(-z));
        }
    }
}

// Channel c of a norm in training, backward: computes dweight and dbias from dz, then replaces dz by dx.
__device__ inline void norm_backward(int64_t N, int64_t stride, int64_t c, const double* x,
                                     double mean, double rstd, double weight, double* dz,
                                     float* dweight, float* dbias) {
    double sum = 0, moment = 0;
    for (int64_t n = 0; n < N; ++n) {
        sum += dz[n * stride + c];
        moment += dz[n * stride + c] * (x[n * stride + c] - mean) * rstd;
    }
    dweight[c] = float(moment);
    dbias[c] = float(sum);
    for (int64_t n = 0; n < N; ++n) {
        const double h = (x[n * stride + c] - mean) * rstd;
        dz[n * stride + c] = weight * rstd * (dz[n * stride + c] - sum / N - h * moment / N);
    }
}

// One block. db, N×C, and da, N×H, are scratch memory for the gradients of b and a.
__global__ void attention_backward(int64_t C, int64_t H, int64_t N, const double* dtheta,
                                   const double* theta, const double* pooled, const float* first,
                                   const float* second, const float* weight1, const float* weight2,
                                   const double* a, const double* r, const double* b,
                                   const double* moments, double* db, double* da, double* dpooled,
                                   float* dfirst, float* dsecond, float* dweight1, float* dbias1,
                                   float* dweight2, float* dbias2) {
    const double* of_last = moments + 2 * H;
    for (int64_t c = threadIdx.x; c < C; c += THREADS) {
        for (int64_t n = 0; n < N; ++n) {
            const double t = theta[n * C + c];
            db[n * C + c] = dtheta[n * C + c] * t * (1 - t);
        }
        norm_backward(N, C, c, b, of_last[c], of_last[C + c], weight2[c], db, dweight2, dbias2);
    }
    __syncthreads();
    for (int64_t i = threadIdx.x; i < C * H; i += THREADS) {
        double sum = 0;
        for (int64_t n = 0; n < N; ++n) sum += db[n * C + i / H] * r[n * H + i % H];
        dsecond[i] = float(sum);
    }
    for (int64_t i = threadIdx.x; i < N * H; i += THREADS) {
        double sum = 0;
        for (int64_t c = 0; c < C; ++c) sum += db[i / H * C + c] * second[c * H + i % H];
        da[i] = r[i] > 0 ? sum : 0;
    }
    __syncthreads();
    for (int64_t h = threadIdx.x; h < H; h += THREADS)
        norm_backward(N, H, h, a, moments[h], moments[H + h], weight1[h], da, dweight1, dbias1);
    __syncthreads();
    for (int64_t i = threadIdx.x; i < H * C; i += THREADS) {
        double sum = 0;
        for (int64_t n = 0; n < N; ++n) sum += da[n * H + i / C] * pooled[n * C + i % C];
        dfirst[i] = float(sum);
    }
    for (int64_t i = threadIdx.x; i < N * C; i += THREADS) {
        double sum = 0;
        for (int64_t h = 0; h < H; ++h) sum += da[i / C * H + h] * first[h * C + i % C];
        dpooled[i] = sum;
    }
}

// From W, C×C×taps, one kernel per image, N×C×C×taps: δ·(W_sum + θ∘W_c) − W. One thread per value.
__global__ void kernels(int64_t N, int64_t C, int taps, const float* weight, const double* theta,
                        float* y) {
    const int64_t i = thread_of_grid();
    if (i >= N * C * C * taps) return;
    const int tap = int(i % taps), centre = taps / 2;
    const int64_t pair = i / taps % (C * C), n = i / taps / (C * C);
    const float* w = weight + pair * taps;
    if (tap != centre) {
        y[i] = -w[tap];
        return;
    }
    double sum = 0;
    for (int k = 0; k < taps; ++k) sum += w[k];
    y[i] = float(sum + theta[n * C + pair / C] * w[centre] - w[centre]);
}

__global__ void kernels_dweight(int64_t N, int64_t C, int taps, const double* theta, const float* dy,
                                float* dweight) {
    const int64_t i = thread_of_grid(), pairs = C * C;
    if (i >= pairs * taps) return;
    const int tap = int(i % taps), centre = taps / 2;
    const int64_t pair = i / taps;
    double sum = 0;
    for (int64_t n = 0; n < N; ++n) {
        const float* d = dy + (n * pairs + pair) * taps;
        sum += double(d[centre]) - d[tap];
        if (tap == centre) sum += theta[n * C + pair / C] * d[centre];
    }
    dweight[i] = float(sum);
}

__global__ void kernels_dtheta(int64_t N, int64_t C, int taps, const float* weight, const float* dy,
                               double* dtheta) {
    const int64_t i = thread_of_grid(), centre = taps / 2;
    if (i >= N * C) return;
    double sum = 0;
    for (int64_t c = 0; c < C; ++c)
        sum += double(dy[(i * C + c) * taps + centre]) * weight[(i % C * C + c) * taps + centre];
    dtheta[i] = sum;
}

// The separable form: W is the outer product of a row and a column of K taps, per pair of channels.
struct Outer {
    double row, column, centre;  // sum of the row, sum of the column, product of their centre taps
    __device__ Outer(const float* r, const float* l, int K)
        : row(0), column(0), centre(double(r[K / 2]) * l[K / 2]) {
        for (int k = 0; k < K; ++k) {
            row += r[k];
            column += l[k];
        }
    }
};

// One 1×1 kernel per image, N×C×C×1×1: W_sum + θ∘W_c. One thread per pair of channels.
__global__ void centres(int64_t N, int64_t C, int K, const float* row, const float* column,
                        const double* theta, float* y) {
    const int64_t pair = thread_of_grid();
    if (pair >= C * C) return;
    const Outer w(row + pair * K, column + pair * K, K);
    for (int64_t n = 0; n < N; ++n)
        y[n * C * C + pair] = float(w.row * w.column + theta[n * C + pair / C] * w.centre);
}

__global__ void centres_dweights(int64_t N, int64_t C, int K, const float* row, const float* column,
                                 const double* theta, const float* dy, float* drow, float* dcolumn) {
    const int64_t pair = thread_of_grid();
    if (pair >= C * C) return;
    const float *r = row + pair * K, *l = column + pair * K;
    const Outer w(r, l, K);
    double sum = 0, of_centre = 0;
    for (int64_t n = 0; n < N; ++n) {
        const double d = dy[n * C * C + pair];
        sum += d;
        of_centre += d * theta[n * C + pair / C];
    }
    for (int k = 0; k < K; ++k) {
        drow[pair * K + k] = float(sum * w.column + (k == K / 2 ? of_centre * l[k] : 0));
        dcolumn[pair * K + k] = float(sum * w.row + (k == K / 2 ? of_centre * r[k] : 0));
    }
}

__global__ void centres_dtheta(int64_t N, int64_t C, int K, const float* row, const float* column,
                               const float* dy, double* dtheta) {
    const int64_t i = thread_of_grid();
    if (i >= N * C) return;
    double sum = 0;
    for (int64_t c = 0; c < C; ++c) {
        const int64_t at = (i % C * C + c) * K + K / 2;
        sum += double(dy[i * C + c]) * (double(row[at]) * column[at]);
    }
    dtheta[i] = sum;
}

}  // namespace llskm
