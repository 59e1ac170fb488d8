// Sampling by diffusion: the steps of a table, with the network as an exported graph. The table is that of the Python
// samplers: x0 = to_x0[0] state + to_x0[1] output; state = x state + sum of x0[i] times the i-th last x0 + noise.
import { Twister } from "./random.js";

// Yields { t, x, x0, milliseconds, attention } after every evaluation. guidance: weight of the condition where a row is guided;
// condition: further inputs of the denoiser by name. With a caption, and a guidance above 0, frames have the attention of pixels to its tokens.
export async function* denoise(engine, { options, shape, rows, seed, guidance, condition }) {
  const twister = new Twister(seed);
  const size = shape.reduce((one, other) => one * other, 1);
  let x = twister.normal(size);
  let known = [new Float32Array(size)];
  for (const row of rows) {
    const inputs = { x: x.map((value) => row.input * value), t: [row.t], x0: known[0].map(clip), ...condition };
    const weight = row.guided ? guidance : 1;
    const call = await evaluate(engine, weight === 0 ? { ...inputs, ...nullCondition(options, condition) } : inputs);
    let { output } = call;
    let time = call.milliseconds;
    if (weight !== 0 && weight !== 1) { // classifier-free guidance
      const free = await evaluate(engine, { ...inputs, ...nullCondition(options, condition) });
      output = output.map((value, index) => (index < size ? free.output[index] + weight * (value - free.output[index]) : value));
      time += free.milliseconds;
    }
    const x0 = threshold(x.map((value, index) => row.to_x0[0] * value + row.to_x0[1] * output[index]), options);
    known = [x0, ...known.slice(0, 2)];
    const next = x.map((value, index) => row.x0.reduce((sum, factor, place) => sum + factor * known[place][index], row.x * value));
    x = addNoise(next, row.noise, output.subarray(size), twister);
    yield { t: row.t, x, x0, milliseconds: time, attention: weight === 0 ? undefined : call.attention };
  }
}

// Returns the time of the state after a number of evaluations, rounded, with alpha and sigma of the schedule there: the time
// of the next evaluation, or null at the end, which is an image without noise.
export function levelAfter(rows, count, { alphas, sigmas }) {
  if (count >= rows.length) return { t: null, alpha: 1, sigma: 0 };
  const t = Math.round(rows[count].t);
  return { t, alpha: alphas[t], sigma: sigmas[t] };
}

const clip = (value) => Math.min(1, Math.max(-1, value));

const nullCondition = (options, condition) => Object.fromEntries(Object.entries(options.null).map(([name, value]) => [name, Array.from(condition[name], () => value)]));

async function evaluate(engine, inputs) {
  const { outputs, milliseconds } = await engine.run("denoiser", inputs);
  return { output: outputs.prediction.data, attention: outputs.attention?.data, milliseconds };
}

function threshold(x0, { threshold: kind, percentile }) {
  if (kind === "none") return x0;
  const limit = kind === "dynamic" ? Math.max(1, quantile(x0.map(Math.abs), percentile)) : 1;
  return x0.map((value) => Math.min(limit, Math.max(-limit, value)) / limit);
}

function quantile(values, fraction) {
  const sorted = values.sort();
  const place = fraction * (sorted.length - 1);
  const low = Math.floor(place);
  return sorted[low] + (place - low) * (sorted[Math.min(low + 1, sorted.length - 1)] - sorted[low]);
}

// A scale of two numbers is that of a learned variance v in [-1, 1].
function addNoise(x, scale, v, twister) {
  if (scale === 0) return x;
  const noise = twister.normal(x.length);
  if (typeof scale === "number") return x.map((value, index) => value + scale * noise[index]);
  const [low, high] = scale.map(Math.log);
  return x.map((value, index) => value + Math.exp(((v[index] + 1) * high + (1 - v[index]) * low) / 4) * noise[index]);
}
