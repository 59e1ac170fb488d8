// Diffusion: the denoising of a seed by two samplers, and the forward process at the same time.
import { newestOnly } from "./engine.js";
import { button, choice, element, milliseconds, note, panel, slider } from "./elements.js";
import { decode, fit, fromValues, paint, picture, pngAddress } from "./pixels.js";
import { Twister } from "./random.js";
import { denoise } from "./sampler.js";

export async function diffusionPage(engine, data, status) {
  const shape = data.image_shape;
  const [channels, height, width] = shape;
  const { options } = data.graphs.denoiser;
  const code = data.graphs.denoiser.inputs[0].shape.slice(1); // of x: the image's shape, or that of a code
  const state = { label: 0, runs: [], number: 0 };
  const conditional = engine.has("denoiser", "label");
  const samplers = Object.keys(data.samplers);
  const seed = slider("Seed", { min: 0, max: 99, step: 1, value: 0, onInput: () => sampleAll() });
  const counts = Object.keys(data.samplers[samplers[0]]).map(Number).sort((one, other) => one - other);
  const few = Math.max(0, counts.findIndex((count) => count >= 10));
  const steps = slider("Steps", { min: 0, max: counts.length - 1, step: 1, value: few, format: (index) => String(counts[index]), onInput: () => sampleAll() });
  const guidance = slider("Guidance", { min: 0, max: 8, step: 0.25, value: data.guidance, format: (value) => value.toFixed(2), onInput: () => sampleAll() });
  const classes = conditional ? [choice("Class", data.classes, 0, (index) => { state.label = index; sampleAll(); })] : [];
  const scrub = slider("Step of the denoising", { min: 0, max: counts[few], step: 1, value: counts[few], format: (index) => `${index} of ${counts[steps.get()]}`, onInput: () => drawFrames() });
  const columns = [0, Math.min(1, samplers.length - 1)].map((index, place) => {
    const made = { noisy: picture(`Noisy image x of sampler ${place + 1}`, width, height), clean: picture(`Predicted image x0 of sampler ${place + 1}`, width, height), time: note("") };
    made.sampler = choice(`Sampler ${place + 1}`, samplers, index, () => sampleAll());
    const figure = (canvas, text) => element("figure", {}, canvas, element("figcaption", {}, text));
    made.panel = panel(`Denoising ${place + 1}`, made.sampler, element("div", { class: "side" }, figure(made.noisy, "State x"), figure(made.clean, "Predicted x₀")), made.time);
    return made;
  });

  // Samples by both samplers; a newer call ends an older one.
  async function sampleAll() {
    const number = ++state.number;
    const count = counts[steps.get()];
    state.runs = columns.map(() => []);
    scrub.querySelector("input").max = count;
    scrub.set(count);
    for (const [place, column] of columns.entries()) {
      const rows = rowsOf(place);
      const start = new Twister(seed.get()).normal(code.reduce((one, other) => one * other, 1));
      state.runs[place] = [{ t: rows[0].t, x: start, x0: null, milliseconds: 0 }];
      for await (const frame of denoise(engine, { options, shape: code, rows, seed: seed.get(), guidance: guidance.get(), label: state.label })) {
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

  const rowsOf = (place) => data.samplers[samplers[columns[place].sampler.get()]][counts[steps.get()]];

  // The frame at the slider, whose end is the last evaluation; while a sampler runs, its newest one.
  function frameOf(place) {
    const run = state.runs[place] ?? [];
    const index = Math.round((scrub.get() / counts[steps.get()]) * rowsOf(place).length);
    return run[Math.min(index, run.length - 1)];
  }

  async function toPixels(values) {
    if (!options.codes) return fromValues(values, shape);
    const { outputs } = await engine.run("decoder", { latent: values });
    return fromValues(outputs.values.data, shape);
  }
  async function drawFrame(place) {
    const frame = frameOf(place);
    if (!frame) return;
    paint(columns[place].noisy, await toPixels(frame.x));
    if (frame.x0) paint(columns[place].clean, await toPixels(frame.x0));
  }
  const drawFrames = newestOnly(async () => {
    for (const place of columns.keys()) await drawFrame(place);
    await drawForward();
  });

  // q(x_t | x_0) of an example, at the time of the frame.
  const forward = picture("Example with noise, x_t", width, height);
  const formula = note("");
  const original = choice("Example", data.examples.map(({ name }) => name), 0, () => drawForward());
  async function drawForward() {
    const run = state.runs[0];
    if (!run?.length || !data.examples.length) return;
    const done = scrub.get() === counts[steps.get()];
    const { t } = run[Math.min(run.length - 1, scrub.get() + 1)];
    const [alpha, sigma] = done ? [1, 0] : [options.schedule.alphas, options.schedule.sigmas].map((values) => values[Math.round(t)]);
    const pixels = fit(await decode(pngAddress(data.examples[original.get()].image)), width, height);
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
    formula.textContent = `${done ? "End" : `t = ${Math.round(t)}`}: x_t = ${alpha.toFixed(3)} x₀ + ${sigma.toFixed(3)} ε`;
  }

  const controls = panel("Settings", seed, steps, ...(Object.keys(options.null).length ? [guidance] : []), ...classes, scrub, element("div", { class: "row" }, button("Denoise again", () => sampleAll())));
  const shown = [controls, ...columns.map((column) => column.panel)];
  if (data.examples.length) shown.push(panel("Forward process", forward, formula, original));
  return {
    panels: shown,
    first: sampleAll,
    run: async ({ seed: number, label }) => {
      let last;
      for await (const frame of denoise(engine, { options, shape: code, rows: data.own, seed: number, guidance: data.guidance, label })) last = frame;
      if (!options.codes) return { values: Array.from(last.x, (value) => Math.min(1, Math.max(-1, value))) };
      return { values: Array.from((await engine.run("decoder", { latent: last.x })).outputs.values.data) };
    },
  };
}
