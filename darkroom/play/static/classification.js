// Classification: probabilities of an image, and the places that they depend on.
import { newestOnly } from "./engine.js";
import { bars, choice, element, milliseconds, note, panel, percent, ranking, slider } from "./elements.js";
import { blendHeat, largestOf, paint, picture, toPlanes } from "./pixels.js";
import { Picker } from "./picker.js";

const ALONG = 20; // squares along a side, at most
const CHUNK = 2 ** 22; // bytes of the images of one call

export async function classify(engine, planes, batch = 1) {
  const { outputs, milliseconds: time } = await engine.run("model", { image: planes }, batch);
  return { probabilities: outputs.probabilities.data, activation: outputs.activation, milliseconds: time };
}

// Returns the first pixels of squares along a side of the image, from edge to edge: half a square apart, or more where that
// would be too many.
export function squaresAlong(length, side) {
  const count = Math.min(ALONG, Math.ceil((length - side) / Math.max(1, Math.floor(side / 2))) + 1);
  return Array.from({ length: count }, (_, index) => (count === 1 ? 0 : Math.round((index * (length - side)) / (count - 1))));
}

// Returns copies of an image (C, H, W), each with a square in the image's mean colour (Zeiler & Fergus 2014, section 4.2).
function occlude(planes, [channels, height, width], means, places, side) {
  const size = height * width;
  const copies = new Uint8Array(places.length * planes.length);
  places.forEach(([left, top], index) => {
    copies.set(planes, index * planes.length);
    for (let channel = 0; channel < channels; channel++) {
      for (let y = top; y < top + side; y++) {
        const row = index * planes.length + channel * size + y * width;
        copies.fill(means[channel], row + left, row + left + side);
      }
    }
  });
  return copies;
}

// Returns the probability of a class for each place of a square. Images are made and classified in chunks: all of them
// would take gigabytes.
async function classifyOccluded(engine, planes, shape, chosen, places, side) {
  const size = shape[1] * shape[2];
  const means = Array.from({ length: shape[0] }, (_, channel) => Math.round(planes.subarray(channel * size, (channel + 1) * size).reduce((one, other) => one + other, 0) / size));
  const most = engine.graphs.model.inputs[0].shape[0] === "batch" ? Math.max(1, Math.floor(CHUNK / planes.length)) : 1;
  const found = [];
  let time = 0;
  for (let start = 0; start < places.length; start += most) {
    const some = places.slice(start, start + most);
    const { probabilities, milliseconds: more } = await classify(engine, occlude(planes, shape, means, some, side), some.length);
    const classes = probabilities.length / some.length;
    some.forEach((_, index) => found.push(probabilities[index * classes + chosen]));
    time += more;
  }
  return { probabilities: found, milliseconds: time };
}

// Returns for every pixel the mean loss of probability over the squares that cover it, or whose gap to the next one it is in.
export async function occlusion(engine, planes, shape, chosen, side) {
  const [, height, width] = shape;
  const [down, across] = [squaresAlong(height, side), squaresAlong(width, side)];
  const places = down.flatMap((y) => across.map((x) => [x, y]));
  const before = (await classify(engine, planes)).probabilities[chosen];
  const { probabilities, milliseconds: time } = await classifyOccluded(engine, planes, shape, chosen, places, side);
  const sums = new Float32Array(height * width);
  const counts = new Float32Array(height * width);
  const reach = ([first, second]) => Math.max(side, (second ?? first) - first + 1); // the squares' distances differ by 1
  const [high, wide] = [reach(down), reach(across)];
  places.forEach(([left, top], index) => {
    for (let y = top; y < Math.min(top + high, height); y++) {
      for (let x = left; x < Math.min(left + wide, width); x++) {
        sums[y * width + x] += before - probabilities[index];
        counts[y * width + x]++;
      }
    }
  });
  return { loss: sums.map((sum, index) => sum / counts[index]), milliseconds: time, count: places.length };
}

// Returns the activation map of a class (Zhou et al. 2016) for every pixel, scaled to [0, 1].
function activationMap({ data, dims }, chosen, [, height, width]) {
  const [, , rows, columns] = dims;
  const map = data.subarray(chosen * rows * columns, (chosen + 1) * rows * columns);
  const largest = Math.max(largestOf(map), 1e-12);
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
  const side = slider("Covered square", { min: 2, max: Math.max(4, Math.floor(Math.min(height, width) / 2)), step: 1, value: Math.max(2, Math.round(width / 5)), format: (one) => `${one} px`, onInput: () => explain() });

  const explain = newestOnly(async () => {
    if (!state.found) return;
    const found = await occlusion(engine, toPlanes(state.pixels, channels), shape, state.chosen, side.get());
    const largest = largestOf(found.loss);
    paint(heat, blendHeat(state.pixels, found.loss.map((value) => Math.max(0, value) / Math.max(largest, 1e-6))));
    lost.textContent = `Brightest: covering it takes ${percent(Math.max(0, largest))} off the probability of ${data.classes[state.chosen]}. ${found.count} images in ${milliseconds(found.milliseconds)}.`;
    if (state.found.activation) paint(activation, blendHeat(state.pixels, activationMap(state.found.activation, state.chosen, shape)));
  });
  const show = newestOnly(async (pixels, index) => {
    const found = await classify(engine, toPlanes(pixels, channels));
    const chosen = found.probabilities.indexOf(largestOf(found.probabilities));
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
