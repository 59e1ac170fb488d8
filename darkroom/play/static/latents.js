// Latents: sampled from the prior of a method, and decoded.
import { Twister } from "./random.js";

// prior: of the description of a decoder. label: the class, if there are classes. Returns latents of a seed, those of darkroom predict.
export function sampleLatent(prior, dim, seed, label) {
  const twister = new Twister(seed);
  if (prior.distribution === "uniform") return Float32Array.from(twister.uniform(dim), (value) => 2 * value - 1);
  if (prior.distribution === "mixture") return fromMixture(prior, twister.normal(dim + 1), label ?? 0);
  const noise = twister.normal(dim);
  if (prior.deviation) return noise.map((value, index) => prior.mean[index] + value * prior.deviation[index]);
  return prior.root ? transform(prior.mean, prior.root, noise) : noise;
}

// Returns mean + noise @ root.
function transform(mean, root, noise) {
  return Float32Array.from(mean, (value, column) => noise.reduce((sum, one, row) => sum + one * root[row][column], value));
}

// The last value of the noise chooses the component of the class: its normal distribution function is uniform.
function fromMixture({ weights, means, roots }, noise, label) {
  const share = normalCdf(noise[noise.length - 1]);
  let sum = 0;
  const found = weights[label].findIndex((weight) => (sum += weight) > share);
  const component = found < 0 ? weights[label].findLastIndex((weight) => weight > 0) : found;
  return transform(means[component], roots[component], noise.subarray(0, noise.length - 1));
}

function normalCdf(x) {
  const t = 1 / (1 + 0.3275911 * (Math.abs(x) / Math.SQRT2)); // Abramowitz & Stegun 7.1.26, error below 1.5e-7
  const tail = t * (0.254829592 + t * (-0.284496736 + t * (1.421413741 + t * (-1.453152027 + t * 1.061405429)))) * Math.exp((-x * x) / 2);
  return x > 0 ? 1 - tail / 2 : tail / 2;
}

// Returns the centre of the prior and its deviations, for the ends of sliders.
export function rangeOf(prior, dim) {
  const centre = prior.mean ?? new Array(dim).fill(0);
  if (prior.distribution === "uniform") return { centre, reach: new Array(dim).fill(1) };
  const deviation = prior.deviation ?? (prior.root ? centre.map((_, index) => Math.hypot(...prior.root.map((row) => row[index]))) : new Array(dim).fill(1));
  return { centre, reach: deviation.map((value) => Math.max(3 * value, 1e-3)) };
}

export function mix(one, other, weight) {
  return one.map((value, index) => (1 - weight) * value + weight * other[index]);
}

// Decodes latents, one after another in an array, to values (N, C, H, W) in [-1, 1].
export async function decodeLatents(engine, part, latents, count, label) {
  const labels = new Array(count).fill(label ?? 0);
  const { outputs, milliseconds } = await engine.run(part, { latent: latents, label: labels }, count);
  return { values: outputs.values.data, milliseconds };
}
