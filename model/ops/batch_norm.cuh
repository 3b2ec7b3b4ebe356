// Batch norm and the activation after it, N×C×H×W in float32. Sums and statistics are in double
// precision. A value is normalised in float32: z = (x − centre)·scale + shift, where centre is the mean
// rounded to float32, and shift makes up for the rounding. Needs block.cuh.

namespace batch_norm {

// z of channel c. `factors`: C centres, then C scales, then C shifts.
struct Affine {
    float centre, scale, shift;
    __device__ Affine(const float* factors, int64_t c, int64_t C)
        : centre(factors[c]), scale(factors[C + c]), shift(factors[2 * C + c]) {}
    __device__ float operator()(float x) const { return fmaf(x - centre, scale, shift); }
};

__device__ inline void set_affine(int64_t c, int64_t C, double mean, double rstd, float weight,
                                  float bias, float* factors) {
    const float centre = float(mean);
    const double scale = weight * rstd;
    factors[c] = centre;
    factors[C + c] = float(scale);
    factors[2 * C + c] = float(bias - (mean - centre) * scale);
}

// Adds up two sums per segment (`part`) over all segments of channel blockIdx.x.
__device__ inline void sum_parts(const Planes& p, int64_t N, int64_t C, const double* part,
                                 double (&sum)[2]) {
    for (int64_t i = threadIdx.x; i < N * p.segments; i += THREADS) {
        const int64_t at = (i / p.segments * C + blockIdx.x) * p.segments + i % p.segments;
        sum[0] += part[2 * at];
        sum[1] += part[2 * at + 1];
    }
    sum_over_block(sum);
}

// part: sum of values and sum of squares, per segment.
__global__ void segment_sums(Planes p, const float* x, double* part) {
    const Segment s(p);
    double sum[2] = {0, 0};
    for (int i = s.first + threadIdx.x; i < s.last; i += THREADS) {
        const double v = x[s.base + i];
        sum[0] += v;
        sum[1] += v * v;
    }
    sum_over_block(sum);
    if (threadIdx.x < 2) part[int64_t(blockIdx.x) * 2 + threadIdx.x] = sum[threadIdx.x];
}

// One block per channel. moments: C of 1/std, then C of mean − centre. new_mean and new_var: running
// statistics after the step. `conv_bias`: bias of the convolution before, not yet added to x.
__global__ void finish_statistics(Planes p, int64_t N, int64_t C, const double* part,
                                  const float* weight, const float* bias, const float* conv_bias,
                                  const float* running_mean, const float* running_var,
                                  double momentum, double eps, float* factors, double* moments,
                                  float* new_mean, float* new_var) {
    double sum[2] = {0, 0};
    sum_parts(p, N, C, part, sum);
    if (threadIdx.x > 0) return;
    const int64_t c = blockIdx.x;
    const double count = double(N) * p.size, mean = sum[0] / count;
    const double difference = sum[1] / count - mean * mean, var = difference < 0 ? 0 : difference;
    const double rstd = 1 / sqrt(var + eps);
    set_affine(c, C, mean, rstd, weight[c], bias[c], factors);
    moments[c] = rstd;
    moments[C + c] = mean - factors[c];
    const double before = conv_bias ? conv_bias[c] : 0;
    new_mean[c] = float(running_mean[c] * (1 - momentum) + (mean + before) * momentum);
    new_var[c] = float(running_var[c] * (1 - momentum) + var * (count / (count - 1)) * momentum);
}

// Computes `factors` from the running statistics.
__global__ void fixed_statistics(int64_t C, const float* weight, const float* bias,
                                 const float* conv_bias, const float* mean, const float* var,
                                 double eps, float* factors) {
    const int64_t c = thread_of_grid();
    if (c < C)
        set_affine(c, C, double(mean[c]) - (conv_bias ? conv_bias[c] : 0), 1 / sqrt(var[c] + eps),
                   weight[c], bias[c], factors);
}

// Up to four activations and the factors of their norms.
struct Terms {
    int count;
    const float *x[4], *factors[4];
};

// y: the sum of all terms, each normalised and activated; `slope` is the activation's slope for negative
// inputs.
__global__ void normalise(Planes p, int64_t C, Terms terms, float slope, float* y) {
    const Segment s(p);
    const int64_t c = s.plane % C;
    for (int i = s.first + threadIdx.x; i < s.last; i += THREADS) {
        float sum = 0;
        for (int k = 0; k < terms.count; ++k) {
            const float z = Affine(terms.factors[k], c, C)(terms.x[k][s.base + i]);
            sum += z > 0 ? z : z * slope;
        }
        y[s.base + i] = sum;
    }
}

// part: sum of dz and sum of dz·(x − centre), per segment. z, the activation's input, is computed again
// rather than kept.
__global__ void backward_sums(Planes p, int64_t C, const float* x, const float* dy,
                              const float* factors, float slope, double* part) {
    const Segment s(p);
    const Affine affine(factors, s.plane % C, C);
    double sum[2] = {0, 0};
    for (int i = s.first + threadIdx.x; i < s.last; i += THREADS) {
        const float v = x[s.base + i], d = dy[s.base + i];
        const float dz = affine(v) > 0 ? d : d * slope;
        sum[0] += dz;
        sum[1] += double(dz) * (v - affine.centre);
    }
    sum_over_block(sum);
    if (threadIdx.x < 2) part[int64_t(blockIdx.x) * 2 + threadIdx.x] = sum[threadIdx.x];
}

// One block per channel. rest: C constants, then C factors of x − centre, which `backward` subtracts.
__global__ void finish_backward(Planes p, int64_t N, int64_t C, const double* part,
                                const double* moments, float* dweight, float* dbias,
                                float* dconv_bias, float* rest) {
    double sum[2] = {0, 0};
    sum_parts(p, N, C, part, sum);
    if (threadIdx.x > 0) return;
    const int64_t c = blockIdx.x;
    const double rstd = moments[c], off = moments[C + c], count = double(N) * p.size;
    const double moment = sum[1] - off * sum[0];  // Σ dz·(x − mean)
    const double factor = rstd * rstd * moment / count;
    dweight[c] = float(moment * rstd);
    dbias[c] = float(sum[0]);
    if (dconv_bias) dconv_bias[c] = 0;  // batch statistics cancel that bias
    rest[c] = float(sum[0] / count - off * factor);
    rest[C + c] = float(factor);
}

// With h = (x − mean)/std, dx = scale·(dz − mean(dz) − h·mean(dz·h)).
__global__ void backward(Planes p, int64_t C, const float* x, const float* dy, const float* factors,
                         const float* rest, float slope, float* dx) {
    const Segment s(p);
    const int64_t c = s.plane % C;
    const Affine affine(factors, c, C);
    const float constant = rest[c], factor = rest[C + c];
    for (int i = s.first + threadIdx.x; i < s.last; i += THREADS) {
        const float v = x[s.base + i], d = dy[s.base + i];
        const float dz = affine(v) > 0 ? d : d * slope;
        dx[s.base + i] = affine.scale * (dz - constant - (v - affine.centre) * factor);
    }
}

}  // namespace batch_norm
