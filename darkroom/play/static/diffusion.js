// Diffusion: the denoising of a seed by two samplers, and the forward process at the same time.
import { captionCondition } from "./captions.js";
import { newestOnly } from "./engine.js";
import { button, choice, element, milliseconds, note, panel, slider } from "./elements.js";
import { decode, fit, fromValues, paint, picture, pngAddress } from "./pixels.js";
import { Twister } from "./random.js";
import { denoise, levelAfter } from "./sampler.js";

const OWN = "as predict"; // the run's own sampler, steps and times

// The condition of a model has controls and panels. encode(values) returns the inputs of the denoiser, and the words of a
// caption. values are { label, caption }; without them the controls have the values. show(...) draws the panels.
const NO_CONDITION = { controls: [], panels: [], encode: async () => ({ inputs: {} }), show: () => {} };

function classCondition(data, onChange) {
  const control = choice("Class", data.classes, 0, onChange);
  return { ...NO_CONDITION, controls: [control], encode: async (values) => ({ inputs: { label: [values?.label ?? control.get()] } }) };
}

function conditionOf(engine, data, onChange) {
  if (engine.has("denoiser", "label")) return classCondition(data, onChange);
  return engine.has("denoiser", "text") ? captionCondition(engine, data, onChange) : NO_CONDITION;
}

export async function diffusionPage(engine, data, status) {
  const shape = data.image_shape;
  const [channels, height, width] = shape;
  const { options } = data.graphs.denoiser;
  const code = data.graphs.denoiser.inputs[0].shape.slice(1); // of x: the image's shape, or that of a code
  const state = { words: [], runs: [], number: 0 };
  const condition = conditionOf(engine, data, () => sampleAll());
  const samplers = [OWN, ...Object.keys(data.samplers)];
  const seed = slider("Seed", { min: 0, max: 99, step: 1, value: 0, onInput: () => sampleAll() });
  const counts = Object.keys(data.samplers[samplers[1]]).map(Number).sort((one, other) => one - other);
  const few = Math.max(0, counts.findIndex((count) => count >= 10));
  const steps = slider("Steps", { min: 0, max: counts.length - 1, step: 1, value: few, format: (index) => String(counts[index]), onInput: () => sampleAll() });
  const guidance = slider("Guidance", { min: 0, max: 8, step: 0.25, value: data.guidance, format: (value) => value.toFixed(2), onInput: () => sampleAll() });
  // The run's own sampler may have a thousand steps: the page starts with others, of few.
  const columns = [1, Math.min(2, samplers.length - 1)].map((index, place) => {
    const made = { noisy: picture(`Noisy image x of sampler ${place + 1}`, width, height), clean: picture(`Predicted image x0 of sampler ${place + 1}`, width, height), time: note("") };
    made.sampler = choice(`Sampler ${place + 1}`, samplers, index, () => sampleAll());
    const figure = (canvas, text) => element("figure", {}, canvas, element("figcaption", {}, text));
    made.panel = panel(`Denoising ${place + 1}`, made.sampler, element("div", { class: "side" }, figure(made.noisy, "State x"), figure(made.clean, "Predicted x₀")), made.time);
    return made;
  });
  const rowsOf = (place) => {
    const name = samplers[columns[place].sampler.get()];
    return name === OWN ? data.own : data.samplers[name][counts[steps.get()]];
  };
  const longest = () => Math.max(...columns.map((_, place) => rowsOf(place).length));
  const scrub = slider("Evaluation", { min: 0, max: longest(), step: 1, value: longest(), format: (index) => `${index} of ${longest()}`, onInput: () => drawFrames() });

  // Samples by both samplers; a newer call ends an older one.
  async function sampleAll() {
    const number = ++state.number;
    const { inputs, words } = await condition.encode();
    if (number !== state.number) return;
    state.runs = columns.map(() => []);
    state.words = words;
    scrub.querySelector("input").max = longest();
    scrub.set(longest());
    for (const [place, column] of columns.entries()) {
      const rows = rowsOf(place);
      const start = new Twister(seed.get()).normal(code.reduce((one, other) => one * other, 1));
      state.runs[place] = [{ t: rows[0].t, x: start, x0: null, milliseconds: 0 }];
      for await (const frame of denoise(engine, { options, shape: code, rows, seed: seed.get(), guidance: guidance.get(), condition: inputs })) {
        if (number !== state.number) return;
        state.runs[place].push(frame);
        await drawFrame(place);
        await new Promise((done) => setTimeout(done)); // the browser draws
      }
      const time = state.runs[place].reduce((sum, frame) => sum + frame.milliseconds, 0);
      const evaluations = state.runs[place].length - 1;
      column.time.textContent = `${evaluations} evaluations in ${milliseconds(time)}`;
      status.show(`${milliseconds(time / evaluations)} for an evaluation of the network`);
    }
    drawForward();
  }

  // The index of the frame at the slider, whose end is the last evaluation; while a sampler runs, of its newest one.
  function indexOf(place) {
    const index = Math.round((scrub.get() / longest()) * rowsOf(place).length);
    return Math.min(index, (state.runs[place] ?? []).length - 1);
  }

  async function toPixels(values) {
    if (!options.codes) return fromValues(values, shape);
    const { outputs } = await engine.run("decoder", { latent: values });
    return fromValues(outputs.values.data, shape);
  }
  async function drawFrame(place) {
    const frame = state.runs[place]?.[indexOf(place)];
    if (!frame) return;
    paint(columns[place].noisy, await toPixels(frame.x));
    const pixels = frame.x0 && (await toPixels(frame.x0));
    if (pixels) paint(columns[place].clean, pixels);
    if (place === 0) condition.show(pixels, state.words, state.runs[0].slice(1, indexOf(0) + 1));
  }
  const drawFrames = newestOnly(async () => {
    for (const place of columns.keys()) await drawFrame(place);
    await drawForward();
  });

  // q(x_t | x_0) of an example, at the time of the first sampler's frame. Latent diffusion adds noise to codes, not to pixels.
  const examples = options.codes ? [] : data.examples;
  const forward = picture("Example with noise, x_t", width, height);
  const formula = note("");
  const original = choice("Example", examples.map(({ name }) => name), 0, () => drawForward());
  async function drawForward() {
    if (indexOf(0) < 0 || !examples.length) return;
    const { t, alpha, sigma } = levelAfter(rowsOf(0), indexOf(0), options.schedule);
    const pixels = fit(await decode(pngAddress(examples[original.get()].image)), width, height);
    const noise = new Twister(seed.get()).normal(width * height * channels);
    const noisy = new ImageData(new Uint8ClampedArray(pixels.data), width);
    for (let index = 0; index < width * height; index++) {
      for (let channel = 0; channel < 3; channel++) {
        const value = pixels.data[4 * index + channel] / 127.5 - 1;
        const eps = noise[(channels === 1 ? 0 : channel) * width * height + index];
        noisy.data[4 * index + channel] = (alpha * value + sigma * eps + 1) * 127.5;
      }
    }
    paint(forward, noisy);
    formula.textContent = `${t === null ? "End" : `t = ${t}`}: x_t = ${alpha.toFixed(3)} x₀ + ${sigma.toFixed(3)} ε`;
  }

  const controls = panel("Settings", seed, steps, ...(Object.keys(options.null).length ? [guidance] : []), ...condition.controls, scrub, element("div", { class: "row" }, button("Denoise again", () => sampleAll())));
  const shown = [controls, ...columns.map((column) => column.panel)];
  if (examples.length) shown.push(panel("Forward process", forward, formula, original));
  shown.push(...condition.panels);
  return {
    panels: shown,
    first: sampleAll,
    run: async ({ seed: number, weight, ...values }) => {
      const { inputs, words } = await condition.encode(values);
      const frames = [];
      for await (const frame of denoise(engine, { options, shape: code, rows: data.own, seed: number, guidance: weight ?? data.guidance, condition: inputs })) frames.push(frame);
      const last = frames[frames.length - 1];
      const maps = last.attention ? { maps: condition.maps(words, frames) } : {};
      if (!options.codes) return { values: Array.from(last.x, (value) => Math.min(1, Math.max(-1, value))), ...maps };
      return { values: Array.from((await engine.run("decoder", { latent: last.x })).outputs.values.data) };
    },
  };
}
