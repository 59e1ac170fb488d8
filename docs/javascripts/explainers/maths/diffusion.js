// Noise schedules, and samplers in two dimensions with the exact denoiser of a Gaussian mixture.
"use strict";
(() => {
  const line = (start, end, count) =>
    Array.from({ length: count }, (_, i) => start + ((end - start) * i) / (count - 1));

  /** Products of 1 - beta: alpha-bar at each time. */
  function products(betas) {
    let kept = 1;
    return betas.map((beta) => (kept *= 1 - beta));
  }

  /** Alpha-bar of linear betas (Ho et al. 2020), scaled so that any number of steps ends as noisy as 1000 do. */
  const linear = (steps = 1000, start = 1e-4, end = 0.02) =>
    products(line(start, end, steps).map((beta) => (beta * 1000) / steps));

  /** Alpha-bar that falls as a squared cosine (Nichol & Dhariwal 2021, equation 17); no beta is above 0.999. */
  function cosine(steps = 1000, s = 0.008, maxBeta = 0.999) {
    const kept = line(0, 1, steps + 1).map((time) => Math.cos((((time + s) / (1 + s)) * Math.PI) / 2) ** 2);
    return products(line(1, steps, steps).map((t) => Math.min(maxBeta, 1 - kept[t] / kept[t - 1])));
  }

  /** Another schedule, shifted and scaled to SNR 0 at the last time (Lin et al. 2023, Algorithm 1). */
  function zeroTerminal(alphaBars) {
    const alphas = alphaBars.map(Math.sqrt);
    const [first, last] = [alphas[0], alphas[alphas.length - 1]];
    return alphas.map((alpha) => (((alpha - last) * first) / (first - last)) ** 2);
  }

  /** Logarithm of the signal-to-noise ratio. */
  const logSNR = (alphaBar) => Math.log(alphaBar / (1 - alphaBar));

  /** alpha and sigma at a time; time -1 is the data itself. */
  const at = (alphaBars, t) => (t < 0 ? [1, 0] : [Math.sqrt(alphaBars[t]), Math.sqrt(1 - alphaBars[t])]);

  /** Python's round: halves go to the even number. */
  function round(x) {
    const low = Math.floor(x);
    return x - low === 0.5 ? low + (low % 2) : Math.round(x);
  }

  /** Pairs (t, t_prev) of a sampler's uniform steps, from the last time to -1. */
  function timePairs(total, steps) {
    const times = Array.from(
      { length: steps },
      (_, i) => Math.max(steps - i, round(total * ((steps - i) / steps))) - 1,
    );
    return times.map((t, i) => [t, times[i + 1] ?? -1]);
  }

  /** Log density of x at a time, and the probability of each component of the mixture given x. */
  function posterior(mixture, x, alpha, sigma) {
    const logs = mixture.map(({ weight, mean, sd }) => {
      const variance = (alpha * sd) ** 2 + sigma ** 2;
      const square = (x[0] - alpha * mean[0]) ** 2 + (x[1] - alpha * mean[1]) ** 2;
      return Math.log(weight) - Math.log(2 * Math.PI * variance) - square / (2 * variance);
    });
    const top = Math.max(...logs);
    const sum = logs.reduce((total, log) => total + Math.exp(log - top), 0);
    return { logDensity: top + Math.log(sum), shares: logs.map((log) => Math.exp(log - top) / sum) };
  }

  /** E[x_0 | x_t = x], the best prediction of the data; the exact score is (alpha * it - x) / sigma^2. */
  function denoise(mixture, x, alpha, sigma) {
    const { shares } = posterior(mixture, x, alpha, sigma);
    return [0, 1].map((axis) =>
      mixture.reduce((sum, { mean, sd }, k) => {
        const gain = (alpha * sd ** 2) / ((alpha * sd) ** 2 + sigma ** 2);
        return sum + shares[k] * (mean[axis] + gain * (x[axis] - alpha * mean[axis]));
      }, 0),
    );
  }

  /** Variance that the forward process adds from t_prev to t, and that of q(x_t_prev | x_t, x_0). */
  function stepVariances([alpha, sigma], [alphaPrev, sigmaPrev]) {
    const beta = 1 - (alpha / alphaPrev) ** 2;
    return { beta, small: beta * (sigmaPrev / sigma) ** 2 };
  }

  /** One step of DDIM (Song et al. 2021, equation 12), with the noise's standard deviation eta * equation 16. */
  function ddimStep(x, x0, now, before, eta, noise) {
    const [[alpha, sigma], [alphaPrev, sigmaPrev]] = [now, before];
    const variance = eta ** 2 * stepVariances(now, before).small;
    const towards = Math.sqrt(Math.max(0, sigmaPrev ** 2 - variance));
    return x.map((value, axis) => {
      const eps = (value - alpha * x0[axis]) / sigma;
      return alphaPrev * x0[axis] + towards * eps + Math.sqrt(variance) * noise[axis];
    });
  }

  /** One ancestral step of DDPM (Ho et al. 2020, equation 7 and Algorithm 2), of the large variance beta. */
  function ancestralStep(x, x0, now, before, noise) {
    const [[alpha, sigma], [alphaPrev, sigmaPrev]] = [now, before];
    const { beta } = stepVariances(now, before);
    const ofX0 = (alphaPrev * beta) / sigma ** 2;
    const ofX = (alpha / alphaPrev) * (sigmaPrev / sigma) ** 2;
    const sd = sigmaPrev === 0 ? 0 : Math.sqrt(beta);
    return x.map((value, axis) => ofX0 * x0[axis] + ofX * value + sd * noise[axis]);
  }

  /** Path of a particle from noise x to the data: x at each time; `step(x, x0, now, before, noise)` is a sampler's. */
  function path(mixture, alphaBars, pairs, x, step, normal) {
    const points = [x];
    for (const [t, before] of pairs) {
      const [now, next] = [at(alphaBars, t), at(alphaBars, before)];
      const x0 = denoise(mixture, points[points.length - 1], ...now);
      points.push(step(points[points.length - 1], x0, now, next, [normal(), normal()]));
    }
    return points;
  }

  const schedules = { linear, cosine, zeroTerminal, logSNR, at };
  const samplers = { timePairs, posterior, denoise, ddimStep, ancestralStep, path };
  globalThis.explainers = Object.assign(globalThis.explainers ?? {}, { schedules, samplers });
})();
