// Classification: probabilities of an image, and the places that they depend on.
import { newestOnly } from "./engine.js";
import { bars, choice, element, milliseconds, note, panel, percent, ranking, slider } from "./elements.js";
import { blendHeat, paint, picture, toPlanes } from "./pixels.js";
import { Picker } from "./picker.js";

const HEAT = [255, 140, 60];

export async function classify(engine, planes, batch = 1) {
  const size = planes.length / batch;
  const free = engine.graphs.model.inputs[0].shape[0] === "batch";
  const parts = free ? [[planes, batch]] : Array.from({ length: batch }, (_, index) => [planes.subarray(index * size, (index + 1) * size), 1]);
  const probabilities = [];
  let activation;
  let time = 0;
  for (const [part, count] of parts) {
    const { outputs, milliseconds: more } = await engine.run("model", { image: part }, count);
    probabilities.push(...outputs.probabilities.data);
    activation = outputs.activation;
    time += more;
  }
  return { probabilities, activation, milliseconds: time };
}

// Returns copies of an image (C, H, W), each with a square in the image's mean colour (Zeiler & Fergus 2014, section 4.2).
function occlude(planes, [channels, height, width], side, stride) {
  const size = height * width;
  const means = Array.from({ length: channels }, (_, channel) => planes.subarray(channel * size, (channel + 1) * size).reduce((one, other) => one + other, 0) / size);
  const places = [];
  for (let y = 0; y <= height - side; y += stride) for (let x = 0; x <= width - side; x += stride) places.push([x, y]);
  const copies = new Uint8Array(places.length * planes.length);
  places.forEach(([left, top], index) => {
    copies.set(planes, index * planes.length);
    for (let channel = 0; channel < channels; channel++) {
      for (let y = top; y < top + side; y++) {
        const row = index * planes.length + channel * size + y * width;
        copies.fill(Math.round(means[channel]), row + left, row + left + side);
      }
    }
  });
  return { copies, places };
}

// Returns for every pixel the mean loss of probability over the squares that cover it.
export async function occlusion(engine, planes, shape, chosen, side) {
  const [, height, width] = shape;
  const stride = Math.max(1, Math.floor(side / 2));
  const { copies, places } = occlude(planes, shape, side, stride);
  const before = (await classify(engine, planes)).probabilities[chosen];
  const { probabilities, milliseconds: time } = await classify(engine, copies, places.length);
  const classes = probabilities.length / places.length;
  const sums = new Float32Array(height * width);
  const counts = new Float32Array(height * width);
  places.forEach(([left, top], index) => {
    for (let y = top; y < top + side; y++) {
      for (let x = left; x < left + side; x++) {
        sums[y * width + x] += before - probabilities[index * classes + chosen];
        counts[y * width + x]++;
      }
    }
  });
  return { loss: sums.map((sum, index) => (counts[index] ? sum / counts[index] : 0)), milliseconds: time, count: places.length };
}

// Returns the activation map of a class (Zhou et al. 2016) for every pixel, scaled to [0, 1].
function activationMap({ data, dims }, chosen, [, height, width]) {
  const [, , rows, columns] = dims;
  const map = data.subarray(chosen * rows * columns, (chosen + 1) * rows * columns);
  const largest = Math.max(...map, 1e-12);
  return Float32Array.from({ length: height * width }, (_, index) => {
    const [row, column] = [Math.floor((Math.floor(index / width) / height) * rows), Math.floor(((index % width) / width) * columns)];
    return Math.max(0, map[row * columns + column]) / largest;
  });
}

export async function classificationPage(engine, data, status) {
  const shape = data.image_shape;
  const [channels, height, width] = shape;
  const state = { pixels: null, found: null, chosen: 0 };
  const scores = bars("Probabilities of the classes");
  const truth = note("");
  const heat = picture("Loss of probability where a part of the image is covered", width, height);
  const activation = picture("Class activation map", width, height);
  const lost = note("");
  const target = choice("Class", data.classes, 0, (index) => { state.chosen = index; explain(); });
  const side = slider("Covered square", { min: 2, max: Math.max(4, Math.floor(width / 2)), step: 1, value: Math.max(2, Math.round(width / 5)), format: (one) => `${one} px`, onInput: () => explain() });

  const explain = newestOnly(async () => {
    if (!state.found) return;
    const found = await occlusion(engine, toPlanes(state.pixels, channels), shape, state.chosen, side.get());
    const largest = Math.max(...found.loss);
    paint(heat, blendHeat(state.pixels, found.loss.map((value) => Math.max(0, value) / Math.max(largest, 1e-6)), HEAT));
    lost.textContent = `Brightest: covering it takes ${percent(Math.max(0, largest))} off the probability of ${data.classes[state.chosen]}. ${found.count} images in ${milliseconds(found.milliseconds)}.`;
    if (state.found.activation) paint(activation, blendHeat(state.pixels, activationMap(state.found.activation, state.chosen, shape), HEAT));
  });
  const show = newestOnly(async (pixels, index) => {
    const found = await classify(engine, toPlanes(pixels, channels));
    const chosen = found.probabilities.indexOf(Math.max(...found.probabilities));
    Object.assign(state, { pixels, found, chosen });
    target.set(chosen);
    scores.show(ranking(found.probabilities, data.classes));
    const example = data.examples[index];
    truth.textContent = example?.label === undefined ? "" : `Truth: ${data.classes[example.label]}`;
    status.show(`${width} × ${height} pixels in ${milliseconds(found.milliseconds)}`);
    explain();
  });
  const picker = new Picker(data, { onImage: show });
  const cam = data.graphs.model.outputs.some(({ name }) => name === "activation");
  return {
    panels: [
      picker.panel,
      panel("Classes", scores, truth),
      panel(
        "What the class depends on",
        target,
        heat,
        side,
        lost,
        ...(cam ? [element("h3", {}, "Class activation map"), activation, note("The last map, weighted by the weights of the class (Zhou et al. 2016).")] : []),
      ),
    ],
    first: () => picker.choose(0),
    run: async (index) => {
      const { probabilities } = await classify(engine, toPlanes(await picker.examplePixels(index), channels));
      return { probabilities: Array.from(probabilities) };
    },
  };
}
