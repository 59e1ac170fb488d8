// Autoencoders: the code of an image, moved by hand, and images from the prior.
import { newestOnly } from "./engine.js";
import { button, choice, element, milliseconds, note, panel, slider, widePanel } from "./elements.js";
import { decodeLatents, sampleLatent, mix, rangeOf } from "./latents.js";
import { context, fromValues, makeCanvas, paint, picture, toPlanes } from "./pixels.js";
import { Picker } from "./picker.js";

const SIDE = 7; // images along a side of the plane
const MOST = 24; // sliders
const BETWEEN = 7; // images of an interpolation

export async function encode(engine, pixels, channels, label) {
  const { outputs } = await engine.run("encoder", { image: toPlanes(pixels, channels), label: [label ?? 0] });
  return Float32Array.from((outputs.mean ?? outputs.latent).data);
}

export async function autoencoderPage(engine, data, status) {
  const shape = data.image_shape;
  const [channels, height, width] = shape;
  const dim = data.graphs.decoder.inputs[0].shape.slice(1).reduce((one, other) => one * other, 1);
  const { prior } = data.graphs.decoder.options;
  const { centre, reach } = rangeOf(prior, dim);
  const conditional = engine.has("decoder", "label");
  const state = { code: Float32Array.from(centre), label: 0 };
  const decoded = picture("Image of the code", width, height);
  const size = shape.reduce((one, other) => one * other, 1);
  const format = (value) => value.toFixed(2);
  const sliders = Array.from({ length: Math.min(dim, MOST) }, (_, index) =>
    slider(`Code ${index + 1}`, {
      min: centre[index] - reach[index],
      max: centre[index] + reach[index],
      step: reach[index] / 100,
      value: centre[index],
      format,
      onInput: (value) => { state.code[index] = value; draw(); },
    }),
  );
  const classes = conditional ? [choice("Class", data.classes, 0, (index) => { state.label = index; draw(); })] : [];
  const names = sliders.map((_, index) => `code ${index + 1}`);
  const across = choice("Across", names, 0, () => draw());
  const down = choice("Down", names, Math.min(1, names.length - 1), () => draw());
  const plane = makeCanvas(SIDE * width, SIDE * height);
  plane.className = "picture";
  plane.tabIndex = 0;
  plane.setAttribute("role", "application");
  plane.setAttribute("aria-label", "Plane of two values of the code; drag, or use the arrow keys");

  const draw = newestOnly(async () => {
    const { values, milliseconds: time } = await decodeLatents(engine, "decoder", state.code, 1, state.label);
    paint(decoded, fromValues(values, shape));
    sliders.forEach((one, index) => one.set(state.code[index]));
    status.show(`Decoded in ${milliseconds(time)}`);
    await drawPlane();
  });

  async function drawPlane() {
    const [x, y] = [across.get(), down.get()];
    const codes = new Float32Array(SIDE * SIDE * dim);
    for (let place = 0; place < SIDE * SIDE; place++) {
      const code = Float32Array.from(state.code);
      code[x] = centre[x] + reach[x] * ((2 * ((place % SIDE) + 0.5)) / SIDE - 1);
      code[y] = centre[y] + reach[y] * ((2 * (Math.floor(place / SIDE) + 0.5)) / SIDE - 1);
      codes.set(code, place * dim);
    }
    const { values } = await decodeLatents(engine, "decoder", codes, SIDE * SIDE, state.label);
    const drawing = context(plane);
    for (let place = 0; place < SIDE * SIDE; place++) {
      drawing.putImageData(fromValues(values, shape, place * size), (place % SIDE) * width, Math.floor(place / SIDE) * height);
    }
    const at = [x, y].map((index) => (((state.code[index] - centre[index]) / reach[index] + 1) / 2) * SIDE);
    for (const [colour, wide] of [["#000", 5], ["#fff", 2.5]]) {
      Object.assign(drawing, { strokeStyle: colour, lineWidth: (wide * SIDE * width) / 512 });
      drawing.beginPath();
      drawing.arc(at[0] * width, at[1] * height, (8 * SIDE * width) / 512, 0, 2 * Math.PI);
      drawing.stroke();
    }
  }

  function moveTo(right, below) {
    const clip = (value) => Math.min(1, Math.max(-1, value));
    const [x, y] = [across.get(), down.get()];
    state.code[x] = centre[x] + reach[x] * clip(right);
    state.code[y] = centre[y] + reach[y] * clip(below);
    draw();
  }
  const drag = (event) => {
    const { left, top, width: wide, height: high } = plane.getBoundingClientRect();
    moveTo((2 * (event.clientX - left)) / wide - 1, (2 * (event.clientY - top)) / high - 1);
  };
  plane.addEventListener("pointerdown", (event) => { plane.setPointerCapture(event.pointerId); drag(event); });
  plane.addEventListener("pointermove", (event) => event.buttons && drag(event));
  plane.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: [-0.05, 0], ArrowRight: [0.05, 0], ArrowUp: [0, -0.05], ArrowDown: [0, 0.05] }[event.key];
    if (!step) return;
    event.preventDefault();
    const [x, y] = [across.get(), down.get()].map((index) => (state.code[index] - centre[index]) / reach[index]);
    moveTo(x + step[0], y + step[1]);
  });

  const picker = new Picker(data, {
    onImage: async (pixels, index) => {
      const label = data.examples[index]?.label;
      if (conditional && label !== undefined) { state.label = label; classes[0].set(label); }
      state.code = await encode(engine, pixels, channels, state.label);
      return draw();
    },
  });

  // Samples of the prior, and images between two codes.
  const seed = slider("Seed", { min: 0, max: 99, step: 1, value: 0, onInput: (value) => { state.code = sampleLatent(prior, dim, value, state.label); draw(); } });
  const sampled = button("Sample the prior", () => { state.code = sampleLatent(prior, dim, seed.get(), state.label); draw(); });
  const titles = data.examples.map(({ name }) => name);
  const from = choice("From", titles, 0, () => interpolate());
  const to = choice("To", titles, Math.min(1, titles.length - 1), () => interpolate());
  const row = Array.from({ length: BETWEEN }, (_, index) => picture(`Image ${index + 1} of ${BETWEEN} between two images`, width, height));
  const interpolate = newestOnly(async () => {
    const ends = [];
    for (const index of [from.get(), to.get()]) ends.push(await encode(engine, await picker.examplePixels(index), channels, data.examples[index].label));
    const codes = new Float32Array(BETWEEN * dim);
    row.forEach((_, index) => codes.set(mix(...ends, index / (BETWEEN - 1)), index * dim));
    const { values } = await decodeLatents(engine, "decoder", codes, BETWEEN, state.label);
    row.forEach((canvas, index) => paint(canvas, fromValues(values, shape, index * size)));
  });

  const between = widePanel("Between two images", element("div", { class: "strip" }, ...row), from, to);
  return {
    panels: [
      picker.panel,
      panel("Decoded", decoded, ...classes, element("div", { class: "row" }, sampled), seed),
      panel("Plane of two codes", plane, across, down),
      panel("Code", ...sliders, ...(dim > MOST ? [note(`The first ${MOST} of ${dim} values.`)] : [])),
      between,
    ],
    first: async () => { await picker.choose(0); interpolate(); },
    run: async ({ example, seed: number, label }) => {
      const code = example === undefined ? sampleLatent(prior, dim, number, label) : await encode(engine, await picker.examplePixels(example), channels, label);
      return { values: Array.from((await decodeLatents(engine, "decoder", code, 1, label)).values) };
    },
  };
}
