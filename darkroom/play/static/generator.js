// GANs: samples of seeds, truncated latents, and a walk between them.
import { newestOnly } from "./engine.js";
import { button, choice, element, milliseconds, note, panel, slider } from "./elements.js";
import { decodeLatents, sampleLatent, mix } from "./latents.js";
import { fromValues, paint, picture } from "./pixels.js";

const SAMPLES = 16;

export async function generatorPage(engine, data, status) {
  const shape = data.image_shape;
  const [, height, width] = shape;
  const size = shape.reduce((one, other) => one * other, 1);
  const dim = data.graphs.generator.inputs[0].shape[1];
  const { prior } = data.graphs.generator.options;
  const state = { label: 0, from: 0, to: 1, timer: null };
  const pictures = Array.from({ length: SAMPLES }, (_, index) => picture(`Sample ${index + 1}`, width, height));
  const cells = pictures.map((canvas, index) => element("button", { type: "button", class: "cell", onclick: () => walkTo(index) }, canvas));
  const classes = engine.has("generator", "label") ? [choice("Class", data.classes, 0, (index) => { state.label = index; drawAll(); })] : [];
  const first = slider("First seed", { min: 0, max: 984, step: SAMPLES, value: 0, onInput: () => drawAll() });
  const truncation = slider("Truncation", { min: 0, max: 1.5, step: 0.05, value: 1, format: (value) => value.toFixed(2), onInput: () => drawAll() });
  const walked = picture("Image between two latents", width, height);
  const position = slider("From one to the other", { min: 0, max: 1, step: 0.01, value: 0, format: (value) => value.toFixed(2), onInput: () => drawWalk() });
  const ends = note("");
  const play = button("Play", () => (state.timer ? stop() : start()));

  // The mean of both priors is 0, so that a factor moves latents towards it.
  const latentOf = (seed) => sampleLatent(prior, dim, seed).map((value) => truncation.get() * value);

  const drawSamples = newestOnly(async () => {
    const latents = new Float32Array(SAMPLES * dim);
    pictures.forEach((_, index) => latents.set(latentOf(first.get() + index), index * dim));
    const { values, milliseconds: time } = await decodeLatents(engine, "generator", latents, SAMPLES, state.label);
    pictures.forEach((canvas, index) => paint(canvas, fromValues(values, shape, index * size)));
    status.show(`${SAMPLES} images in ${milliseconds(time)}`);
  });
  const drawWalk = newestOnly(async () => {
    const latent = mix(latentOf(state.from), latentOf(state.to), position.get());
    paint(walked, fromValues((await decodeLatents(engine, "generator", latent, 1, state.label)).values, shape));
    ends.textContent = `Between the latents of the seeds ${state.from} and ${state.to}.`;
  });
  const drawAll = () => Promise.all([drawSamples(), drawWalk()]);

  function walkTo(index) {
    [state.from, state.to] = [state.to, first.get() + index];
    position.set(0);
    if (!state.timer) start();
  }
  function start() {
    play.textContent = "Stop";
    state.timer = setInterval(() => {
      if (position.get() >= 1) {
        [state.from, state.to] = [state.to, (state.to + 1) % 1000];
        position.set(0);
      } else position.set(position.get() + 0.04);
      drawWalk();
    }, 60);
  }
  function stop() {
    clearInterval(state.timer);
    state.timer = null;
    play.textContent = "Play";
  }

  return {
    panels: [
      panel("Samples", element("div", { class: "grid" }, ...cells), first, truncation, ...classes, note("Truncation multiplies latents: below 1, images are more alike and more typical.")),
      panel("Latent walk", walked, position, element("div", { class: "row" }, play), ends, note("A click on a sample walks to it.")),
    ],
    first: drawAll,
    run: async ({ seed, label }) => ({ values: Array.from((await decodeLatents(engine, "generator", sampleLatent(prior, dim, seed), 1, label)).values) }),
  };
}
