// Segmentation: the mask of an image, the classes of a pixel, and the part of the image that the pixel depends on.
import { newestOnly } from "./engine.js";
import { bars, colourAt, colourOf, element, milliseconds, note, panel, percent, ranking, slider } from "./elements.js";
import { blendHeat, decode, fit, paint, picture, pngAddress, toPlanes } from "./pixels.js";
import { Picker } from "./picker.js";
import { drawBoxes, markPixel } from "./stage.js";

const IGNORED = 255;

export async function segment(engine, pixels, channels) {
  const { outputs, milliseconds: time } = await engine.run("model", { image: toPlanes(pixels, channels) });
  return { mask: Uint8Array.from(outputs.mask.data, Number), logits: outputs.logits.data, milliseconds: time };
}

export function softmax(values) {
  const largest = Math.max(...values);
  const powers = Array.from(values, (value) => Math.exp(value - largest));
  const sum = powers.reduce((one, other) => one + other, 0);
  return powers.map((power) => power / sum);
}

function overlay(pixels, mask, colours, opacity) {
  const blended = new ImageData(new Uint8ClampedArray(pixels.data), pixels.width);
  mask.forEach((id, index) => {
    const colour = id === IGNORED ? [128, 128, 128] : colourAt(colours, id);
    const own = pixels.data.subarray(4 * index, 4 * index + 3);
    const grey = (own[0] + own[1] + own[2]) / 3; // the image's own colours would change those of the classes
    for (let channel = 0; channel < 3; channel++) {
      const below = (1 - opacity) * own[channel] + opacity * grey;
      blended.data[4 * index + channel] = (1 - opacity) * below + opacity * colour[channel];
    }
  });
  return blended;
}

function legend(mask, classes, colours) {
  const counts = new Array(classes.length).fill(0);
  for (const id of mask) counts[id]++;
  const rows = classes.map((name, id) => ({ name, id, share: counts[id] / mask.length })).filter(({ share }) => share > 0);
  return rows.map(({ name, id, share }) => element("li", {}, element("i", { style: `background:${colourOf(colours, id)}` }), `${name} ${percent(share)}`));
}

export async function segmentationPage(engine, data, status) {
  const [channels, height, width] = data.image_shape;
  const state = { opacity: 0.6, pixels: null, found: null };
  const masked = picture("Predicted mask over the image", width, height);
  const truth = picture("True mask", width, height);
  const truthFigure = element("figure", { class: "small" }, truth, element("figcaption", {}, "Truth"));
  const classes = element("ul", { class: "legend", "aria-label": "Classes of the mask" });
  const pixelBars = bars("Probabilities of the chosen pixel");
  const field = picture("Receptive field of the chosen pixel", width, height);
  const opacity = slider("Opacity", { min: 0, max: 1, step: 0.05, value: state.opacity, format: percent, onInput: (value) => { state.opacity = value; drawMask(); } });
  const fields = data.receptive && (await readFields(data.receptive));

  function drawMask() {
    if (state.found) paint(masked, overlay(state.pixels, state.found.mask, data.colours, state.opacity));
  }

  function drawPoint() {
    const [x, y] = picker.stage.point;
    const layers = [markPixel([x, y])];
    const size = width * height;
    const logits = data.classes.map((_, id) => state.found.logits[id * size + y * width + x]);
    pixelBars.show(ranking(softmax(logits), data.classes, data.colours, 5));
    if (fields) {
      const { heat, corners } = fields(x, y, width, height);
      paint(field, blendHeat(state.pixels, heat));
      layers.unshift(drawBoxes([{ corners, colour: "rgb(255 140 60)", dashed: true }]));
    }
    picker.stage.setLayers(...layers);
  }

  const show = newestOnly(async (pixels, index) => {
    const found = await segment(engine, pixels, channels);
    Object.assign(state, { pixels, found });
    drawMask();
    drawPoint();
    classes.replaceChildren(...legend(found.mask, data.classes, data.colours));
    const example = data.examples[index];
    truthFigure.hidden = !example?.mask;
    if (example?.mask) paint(truth, fit(await decode(pngAddress(example.mask)), width, height));
    status.show(`${width} × ${height} pixels in ${milliseconds(found.milliseconds)}`);
  });
  const picker = new Picker(data, { onImage: show, onPoint: () => state.found && drawPoint() });
  const shown = [
    picker.panel,
    panel("Mask", masked, opacity, classes, truthFigure),
    panel(
      "Chosen pixel",
      note("Click a pixel of the image, or move it by the arrow keys."),
      pixelBars,
      ...(fields ? [element("h3", {}, "Receptive field"), field, note(data.receptive.note)] : []),
    ),
  ];
  return {
    panels: shown,
    first: () => picker.choose(0),
    run: async (index) => {
      const { mask, logits } = await segment(engine, await picker.examplePixels(index), channels);
      return { mask: Array.from(mask), logits: Array.from(logits) };
    },
  };
}

// Returns a function from a pixel to the heat of its receptive field, in [0, 1], and the corners of its bounds. Fields are
// known for the pixels of a grid; the nearest one is taken.
async function readFields({ rows, columns, maps, bounds, height, width }) {
  const image = await decode(pngAddress(maps));
  const values = fit(image, image.width, image.height).data;
  return (x, y, wide, high) => {
    const [row, column] = [Math.floor((y / high) * rows), Math.floor((x / wide) * columns)];
    const place = row * columns + column;
    const heat = Float32Array.from({ length: wide * high }, (_, index) => {
      const [down, right] = [Math.floor((Math.floor(index / wide) / high) * height), Math.floor(((index % wide) / wide) * width)];
      return values[4 * ((place * height + down) * width + right)] / 255;
    });
    return { heat, corners: bounds[place] };
  };
}
