// Detection: boxes of an image with thresholds that can be moved, and the anchors of the method.
import { anchorsAt, overlap, regularBoxes, RULES, suppress } from "./boxes.js";
import { newestOnly } from "./engine.js";
import { bars, choice, colourAt, colourOf, milliseconds, note, panel, percent, slider } from "./elements.js";
import { context, largestOf, makeCanvas, toPlanes } from "./pixels.js";
import { Picker } from "./picker.js";
import { drawBoxes, markPixel, Stage } from "./stage.js";

// Returns all candidates of an image, before the suppression: { box, score, label } with label from 1, and mask.
export async function findCandidates(engine, pixels, channels, proposals) {
  const inputs = { image: toPlanes(pixels, channels), proposals: (proposals ?? []).flat() };
  const { outputs, milliseconds: time } = await engine.run("model", inputs);
  const { boxes, scores, labels, masks } = outputs;
  const size = pixels.width * pixels.height;
  const candidates = Array.from(scores.data, (score, index) => ({
    box: Array.from(boxes.data.subarray(4 * index, 4 * index + 4)),
    score,
    label: Number(labels.data[index]),
    mask: masks && masks.data.subarray(index * size, (index + 1) * size),
  }));
  return { candidates, milliseconds: time };
}

function drawMasks(detections, colours, width, height) {
  const canvas = makeCanvas(width, height);
  const pixels = new ImageData(width, height);
  for (const { mask, label } of detections) {
    mask?.forEach((inside, index) => {
      if (inside) pixels.data.set([...colourAt(colours, label - 1), 130], 4 * index);
    });
  }
  context(canvas).putImageData(pixels, 0, 0);
  return (drawing) => drawing.drawImage(canvas, 0, 0);
}

export async function detectionPage(engine, data, status) {
  const [channels, height, width] = data.image_shape;
  const { anchors, limits } = data;
  const state = { candidates: null, example: undefined, drawn: null };
  const result = new Stage("Detections over the image", width, height, {});
  result.canvas.classList.remove("stage");
  result.canvas.setAttribute("role", "img");
  result.canvas.removeAttribute("tabindex");
  const counts = note("");
  const list = bars("Detections with their scores");
  const least = slider("Score above", { min: data.lowest_score, max: 1, step: 0.01, value: Math.max(limits.score_threshold, data.shown_score), format: percent, onInput: () => drawResult() });
  const iou = slider("Suppress at IoU above", { min: 0, max: 1, step: 0.01, value: limits.nms_threshold, format: (value) => value.toFixed(2), onInput: () => drawResult() });
  const takesProposals = engine.has("model", "proposals");

  function drawResult() {
    if (!state.candidates) return;
    const kept = suppress(state.candidates, least.get(), iou.get(), limits.max_detections);
    const boxes = kept.map(({ box, score, label }) => ({ corners: box, colour: colourOf(data.colours, label - 1), text: `${data.classes[label - 1]} ${percent(score)}` }));
    result.setLayers(drawMasks(kept, data.colours, width, height), drawBoxes(boxes));
    counts.textContent = `${kept.length} of ${state.candidates.length} candidates`;
    list.show(kept.slice(0, 10).map(({ score, label }) => ({ name: data.classes[label - 1], value: score, colour: colourOf(data.colours, label - 1) })));
  }

  const show = newestOnly(async (pixels, index) => {
    const example = data.examples[index];
    const proposals = takesProposals ? (example?.proposals ?? regularBoxes(width, height)) : undefined;
    const found = await findCandidates(engine, pixels, channels, proposals);
    Object.assign(state, { candidates: found.candidates, example });
    result.setPixels(pixels);
    drawResult();
    drawReferences();
    status.show(`${width} × ${height} pixels in ${milliseconds(found.milliseconds)}`);
  });
  const picker = new Picker(data, {
    onImage: show,
    onPoint: () => drawReferences(),
    onBox: (box) => { state.drawn = box; drawReferences(); },
  });

  // Anchors, or cells of a grid, over the image.
  const explained = note("");
  const subject = anchors && choice(anchors.name[0].toUpperCase() + anchors.name.slice(1), ["matched with true boxes", "at the chosen pixel", "matched with the drawn box", "hidden"], 0, () => drawReferences());

  function drawReferences() {
    const truths = (state.example?.boxes ?? []).map((corners, index) => ({ corners, colour: colourOf(data.colours, state.example.labels[index] - 1), dashed: true }));
    const layers = [];
    const drawn = picker.stage.mode === "box" && state.drawn;
    if (drawn) layers.push(drawBoxes([{ corners: drawn, colour: "#fff", width: 4 }]));
    if (picker.stage.mode === "point") layers.push(markPixel(picker.stage.point));
    if (anchors) {
      if (drawn) subject.set(2);
      const { found, text } = references(subject.get());
      layers.push(drawBoxes(found.map((index) => ({ corners: anchors.boxes[index], colour: "rgb(255 190 60)", width: 1.5 }))));
      explained.textContent = text;
    }
    picker.stage.setLayers(...layers, drawBoxes(truths));
  }

  function references(what) {
    if (what === 3) return { found: [], text: "" };
    if (what === 1) {
      const found = anchorsAt(anchors.boxes, picker.stage.point);
      return { found, text: `${found.length} of ${anchors.boxes.length} ${anchors.name} have their centre there.` };
    }
    const boxes = what === 0 ? (state.example?.boxes ?? []) : state.drawn ? [state.drawn] : [];
    if (!boxes.length) return { found: [], text: what === 0 ? "This image has no true boxes." : "Draw a box on the image." };
    const { match, words } = RULES[anchors.rule];
    const found = match(anchors.boxes, boxes, anchors.threshold);
    const best = boxes.map((box) => largestOf(anchors.boxes.map((one) => overlap(one, box))).toFixed(2));
    const highest = anchors.rule === "centre" ? "" : ` Highest IoU: ${best.join(", ")}.`;
    return { found, text: `${found.length} of ${anchors.boxes.length} ${anchors.name} matched: ${words(anchors.threshold)}.${highest}` };
  }

  if (takesProposals) picker.panel.append(note("Proposals of other images than the examples are regular boxes."));
  if (anchors) picker.panel.append(subject, explained);
  picker.panel.append(note("Dashed: true boxes."));
  return {
    panels: [picker.panel, panel("Detections", result.canvas, least, iou, counts), panel("Scores", list)],
    first: () => picker.choose(0),
    run: async (index, scoreThreshold = limits.score_threshold, iouThreshold = limits.nms_threshold) => {
      const pixels = await picker.examplePixels(index);
      const { candidates } = await findCandidates(engine, pixels, channels, data.examples[index].proposals);
      const kept = suppress(candidates, scoreThreshold, iouThreshold, limits.max_detections);
      return {
        boxes: kept.map(({ box }) => box),
        scores: kept.map(({ score }) => score),
        labels: kept.map(({ label }) => label),
        areas: kept.map(({ mask }) => (mask ? mask.reduce((sum, value) => sum + value, 0) : 0)),
      };
    },
  };
}
