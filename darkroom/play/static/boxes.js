// Boxes [x0, y0, x1, y1]: overlap, suppression and matching.
import { largestOf } from "./pixels.js";

export function area([x0, y0, x1, y1]) {
  return (x1 - x0) * (y1 - y0);
}

// Intersection over union.
export function overlap(one, other) {
  const wide = Math.min(one[2], other[2]) - Math.max(one[0], other[0]);
  const high = Math.min(one[3], other[3]) - Math.max(one[1], other[1]);
  if (wide <= 0 || high <= 0) return 0;
  const both = wide * high;
  return both / (area(one) + area(other) - both);
}

// Returns the detections that score more than a threshold, after non-maximum suppression within each class: of two boxes
// with a larger IoU the worse one is dropped. candidates: { box, score, label }.
export function suppress(candidates, scoreThreshold, iouThreshold, most) {
  const ranked = candidates.filter(({ score }) => score > scoreThreshold).sort((one, other) => other.score - one.score);
  const kept = [];
  for (const one of ranked) {
    if (!kept.some((other) => other.label === one.label && overlap(other.box, one.box) > iouThreshold)) kept.push(one);
  }
  return kept.slice(0, most);
}

// How boxes of a method are matched with true boxes; see References in references.py.
export const RULES = {
  at_least: { match: matchAnchors, words: (threshold) => `IoU of at least ${threshold}, or the highest IoU of a true box` },
  above: { match: matchDefaultBoxes, words: (threshold) => `IoU above ${threshold}, or the best default box of a true box` },
  centre: { match: matchCells, words: () => "a box belongs to the cell of its centre" },
};

// Returns the indices of anchors of at least a threshold's IoU with a true box, and of the best ones of each true box.
function matchAnchors(anchors, boxes, threshold) {
  const found = boxes.flatMap((box) => {
    const ious = anchors.map((anchor) => overlap(anchor, box));
    const least = Math.min(threshold, Math.max(largestOf(ious), Number.MIN_VALUE));
    return ious.flatMap((iou, index) => (iou >= least ? [index] : []));
  });
  return [...new Set(found)];
}

// Returns the indices of default boxes above a threshold's IoU with a true box, and of one for each true box: the pair of
// the highest IoU first, each box in one pair.
function matchDefaultBoxes(defaultBoxes, boxes, threshold) {
  const ious = boxes.map((box) => defaultBoxes.map((one) => overlap(one, box)));
  const found = new Set(ious.flatMap((row) => row.flatMap((iou, index) => (iou > threshold ? [index] : []))));
  for (let pair = 0; pair < Math.min(boxes.length, defaultBoxes.length); pair++) {
    const best = ious.map(largestOf);
    const row = best.indexOf(largestOf(best));
    const index = ious[row].indexOf(best[row]);
    found.add(index);
    ious[row].fill(-1);
    for (const other of ious) other[index] = -1;
  }
  return [...found];
}

// Returns the indices of the cells in which the centres of boxes lie.
function matchCells(cells, boxes) {
  const found = boxes.map(([x0, y0, x1, y1]) => {
    const [x, y] = [(x0 + x1) / 2, (y0 + y1) / 2];
    return cells.findIndex(([left, top, right, bottom]) => left <= x && x < right && top <= y && y < bottom);
  });
  return [...new Set(found.filter((index) => index >= 0))];
}

// Returns the indices of anchors whose centre is nearest to the middle of a pixel.
export function anchorsAt(anchors, [x, y]) {
  const distance = ([x0, y0, x1, y1]) => Math.hypot((x0 + x1) / 2 - x - 0.5, (y0 + y1) / 2 - y - 0.5);
  const nearest = anchors.reduce((least, anchor) => Math.min(least, distance(anchor)), Infinity);
  return anchors.flatMap((anchor, index) => (distance(anchor) <= nearest + 0.75 ? [index] : []));
}

// Returns regular boxes for detectors that classify proposals, where the data have none.
export function regularBoxes(width, height) {
  const boxes = [];
  for (const share of [0.2, 0.35, 0.6]) {
    for (const ratio of [0.7, 1, 1.4]) {
      const [wide, high] = [width * share * Math.sqrt(ratio), (height * share) / Math.sqrt(ratio)];
      for (let y = 0; y + high <= height; y += high / 3) for (let x = 0; x + wide <= width; x += wide / 3) boxes.push([x, y, x + wide, y + high]);
    }
  }
  return boxes;
}
