// Boxes [x1, y1, x2, y2]: overlap, non-maximum suppression, matching of anchors.
"use strict";
(() => {
  const area = ([x1, y1, x2, y2]) => Math.max(0, x2 - x1) * Math.max(0, y2 - y1);

  /** Intersection of two boxes; of area 0 where they do not meet. */
  const intersection = (a, b) => [
    Math.max(a[0], b[0]),
    Math.max(a[1], b[1]),
    Math.min(a[2], b[2]),
    Math.min(a[3], b[3]),
  ];

  /** Intersection over union; 0 for two boxes without area. */
  function iou(a, b) {
    const both = area(intersection(a, b));
    const either = area(a) + area(b) - both;
    return either ? both / either : 0;
  }

  /**
   * Greedy non-maximum suppression as a list of turns, one per kept box: `kept`, and the boxes that it suppresses,
   * those with an IoU above the threshold. Boxes are numbers; the highest score comes first.
   */
  function suppress(boxes, scores, threshold) {
    let rest = boxes.map((_, i) => i).sort((a, b) => scores[b] - scores[a]);
    const turns = [];
    while (rest.length) {
      const [kept, ...others] = rest;
      const suppressed = others.filter((other) => iou(boxes[kept], boxes[other]) > threshold);
      turns.push({ kept, suppressed });
      rest = others.filter((other) => !suppressed.includes(other));
    }
    return turns;
  }

  const table = (truths, anchors) => truths.map((truth) => anchors.map((anchor) => iou(truth, anchor)));
  const argmax = (values) => values.reduce((best, value, i) => (value > values[best] ? i : best), 0);

  /**
   * Rule of Faster R-CNN: truth of each anchor; -1 background, -2 ignored.
   *
   * Positive from IoU `high` on, background below `low`. The anchors with the highest IoU of a truth are positive too;
   * as in torchvision, such an anchor belongs to the truth that it overlaps most.
   */
  function matchAnchors(anchors, truths, high = 0.7, low = 0.3) {
    if (!truths.length) return anchors.map(() => -1);
    const ious = table(truths, anchors);
    const best = anchors.map((_, a) => argmax(ious.map((row) => row[a])));
    const rescued = new Set(ious.flatMap((row) => row.flatMap((x, a) => (x === Math.max(...row) ? [a] : []))));
    return anchors.map((_, a) => {
      const overlap = ious[best[a]][a];
      if (overlap >= high || rescued.has(a)) return best[a];
      return overlap < low ? -1 : -2;
    });
  }

  /**
   * Rule of SSD: truth of each default box; -1 background.
   *
   * Positive above the threshold. Each truth also gets a box of its own: greedily, the pair with the highest IoU first.
   */
  function matchDefaultBoxes(anchors, truths, threshold = 0.5) {
    const ious = table(truths, anchors);
    const match = anchors.map((_, a) => {
      const column = ious.map((row) => row[a]);
      const best = argmax(column);
      return column[best] > threshold ? best : -1;
    });
    const pairs = ious.flatMap((row, truth) => row.map((overlap, anchor) => ({ overlap, truth, anchor })));
    pairs.sort((a, b) => b.overlap - a.overlap);
    const truthsDone = new Set();
    const anchorsDone = new Set();
    for (const { truth, anchor } of pairs) {
      if (truthsDone.has(truth) || anchorsDone.has(anchor)) continue;
      match[anchor] = truth;
      truthsDone.add(truth);
      anchorsDone.add(anchor);
    }
    return match;
  }

  /** Anchors of each size and each ratio height / width, with area size^2, centred on a grid of cells of `stride`. */
  function anchorGrid({ width, height, stride, sizes, ratios }) {
    const anchors = [];
    for (let y = stride / 2; y < height; y += stride)
      for (let x = stride / 2; x < width; x += stride)
        for (const size of sizes)
          for (const ratio of ratios) {
            const [w, h] = [size / Math.sqrt(ratio), size * Math.sqrt(ratio)];
            anchors.push([x - w / 2, y - h / 2, x + w / 2, y + h / 2]);
          }
    return anchors;
  }

  globalThis.explainers = Object.assign(globalThis.explainers ?? {}, {
    boxes: { area, intersection, iou, suppress, matchAnchors, matchDefaultBoxes, anchorGrid },
  });
})();
