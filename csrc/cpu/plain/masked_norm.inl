// Norms with masked statistics in plain C++. Included by vectorized.inl.

constexpr int kMaskedLanes = 16;

// The sum of term(c) over the channels: in lanes, which are added up in float64.
template <class T, class Term>
inline double masked_sum(int64_t channels, Term&& term) {
  T lane[kMaskedLanes] = {};
  int64_t c = 0;
  for (; c + kMaskedLanes <= channels; c += kMaskedLanes) {
    for (int l = 0; l < kMaskedLanes; ++l) lane[l] += term(c + l);
  }
  for (int l = 0; c + l < channels; ++l) lane[l] += term(c + l);
  double sum = 0;
  for (int l = 0; l < kMaskedLanes; ++l) sum += static_cast<double>(lane[l]);
  return sum;
}

inline double masked_scale(double variance, double eps) { return 1 / __builtin_sqrt(variance + eps); }

template <class T>
void masked_norm_forward(const MaskedNorm<T>& norm, const T* x, int64_t rows, T* y, T* mean, T* variance) {
  const int64_t C = norm.channels;
  const T* __restrict m = norm.mask;
  const T* __restrict w = norm.weight;
  const T* __restrict b = norm.bias;
  for (int64_t n = 0; n < rows; ++n) {
    const T* __restrict row = x + n * C;
    T* __restrict out = y + n * C;
    const T mu =
        norm.centred ? static_cast<T>(masked_sum<T>(C, [&](int64_t c) { return m[c] * row[c]; }) / norm.total) : T(0);
    const double v = masked_sum<T>(C, [&](int64_t c) { return m[c] * ((row[c] - mu) * (row[c] - mu)); }) / norm.total;
    const T r = static_cast<T>(masked_scale(v, norm.eps));
    for (int64_t c = 0; c < C; ++c) out[c] = (row[c] - mu) * r * w[c] + b[c];
    mean[n] = mu;
    variance[n] = static_cast<T>(v);
  }
}

// Adds the rows' terms to the sums over rows: dmask's without its factor -1 / M.
template <class T>
void masked_norm_backward(const MaskedNorm<T>& norm, const T* grad, const T* x, int64_t rows, const T* mean,
                          const T* variance, T* dx, T* dmask, T* dweight, T* dbias) {
  const int64_t C = norm.channels;
  const T* __restrict m = norm.mask;
  const T* __restrict w = norm.weight;
  T* __restrict dm = dmask;
  T* __restrict dw = dweight;
  T* __restrict db = dbias;
  for (int64_t n = 0; n < rows; ++n) {
    const T* __restrict g = grad + n * C;
    const T* __restrict row = x + n * C;
    T* __restrict out = dx + n * C;
    const double v = static_cast<double>(variance[n]), scale = masked_scale(v, norm.eps);
    const T mu = mean[n], r = static_cast<T>(scale);
    const double sum = norm.centred ? masked_sum<T>(C, [&](int64_t c) { return g[c] * w[c]; }) : 0;
    const double dot = masked_sum<T>(C, [&](int64_t c) { return g[c] * w[c] * ((row[c] - mu) * r); });
    const T s1 = static_cast<T>(sum), half = static_cast<T>(dot / 2), spread = static_cast<T>(v * scale * scale);
    const T p1 = static_cast<T>(sum / norm.total), p2 = static_cast<T>(dot / norm.total);
    for (int64_t c = 0; c < C; ++c) {
      const T unit = (row[c] - mu) * r;
      out[c] = r * (g[c] * w[c] - m[c] * (p1 + unit * p2));
      dm[c] += s1 * unit + half * (unit * unit - spread);
    }
    if (dw == nullptr) continue;
    for (int64_t c = 0; c < C; ++c) {
      dw[c] += g[c] * ((row[c] - mu) * r);
      db[c] += g[c];
    }
  }
}
