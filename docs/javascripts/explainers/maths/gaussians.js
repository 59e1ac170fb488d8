// Normal distributions of one variable, seeded noise, and gradients through samples.
"use strict";
(() => {
  const density = (x, mean, sd) => Math.exp(-(((x - mean) / sd) ** 2) / 2) / (sd * Math.sqrt(2 * Math.PI));

  /** KL(q || p) in nats: log(sp / sq) + (sq^2 + (mq - mp)^2) / (2 sp^2) - 1/2. */
  function kl(q, p) {
    return Math.log(p.sd / q.sd) + (q.sd ** 2 + (q.mean - p.mean) ** 2) / (2 * p.sd ** 2) - 0.5;
  }

  /** Integrand of KL(q || p): q(x) log(q(x) / p(x)). The logarithm is exact where both densities round to 0. */
  function klIntegrand(x, q, p) {
    const [zq, zp] = [(x - q.mean) / q.sd, (x - p.mean) / p.sd];
    return density(x, q.mean, q.sd) * (Math.log(p.sd / q.sd) + (zp ** 2 - zq ** 2) / 2);
  }

  /** Generator of numbers in [0, 1) with a 32-bit state (mulberry32). */
  function uniform(seed) {
    let state = seed >>> 0;
    return () => {
      state = (state + 0x6d2b79f5) >>> 0;
      let bits = Math.imul(state ^ (state >>> 15), state | 1);
      bits ^= bits + Math.imul(bits ^ (bits >>> 7), bits | 61);
      return ((bits ^ (bits >>> 14)) >>> 0) / 2 ** 32;
    };
  }

  /** Generator of standard normal numbers (Box-Muller). */
  function normal(seed) {
    const next = uniform(seed);
    return () => Math.sqrt(-2 * Math.log(1 - next())) * Math.cos(2 * Math.PI * next());
  }

  /**
   * Gradients of the mean loss of z = mean + sd * eps for fixed noise eps.
   *
   * Per sample: z, the slope of the loss there, and both estimates of the gradient of the expected loss by mean and
   * sd: `path`, through the sample; `score`, loss times the gradient of the log density.
   */
  function gradients(mean, sd, noise, loss, slope) {
    const samples = noise.map((eps) => {
      const z = mean + sd * eps;
      const [value, steep] = [loss(z), slope(z)];
      const score = { mean: (value * eps) / sd, sd: (value * (eps ** 2 - 1)) / sd };
      return { eps, z, loss: value, slope: steep, path: { mean: steep, sd: steep * eps }, score };
    });
    const average = (of) => samples.reduce((sum, sample) => sum + of(sample), 0) / samples.length;
    const summary = (kind, name) => {
      const center = average((x) => x[kind][name]);
      return { mean: center, sd: Math.sqrt(average((x) => (x[kind][name] - center) ** 2)) };
    };
    return {
      samples,
      loss: average((x) => x.loss),
      path: { mean: summary("path", "mean"), sd: summary("path", "sd") },
      score: { mean: summary("score", "mean"), sd: summary("score", "sd") },
    };
  }

  globalThis.explainers = Object.assign(globalThis.explainers ?? {}, {
    gaussians: { density, kl, klIntegrand, uniform, normal, gradients },
  });
})();
