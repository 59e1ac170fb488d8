// Boxes [x0, y0, x1, y1]: overlap, suppression and matching.

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

// Returns the indices of anchors that a box is matched with, and their IoU: those of at least a threshold, and the best.
export function matchAnchors(anchors, box, threshold) {
  const found = anchors.map((anchor, index) => ({ index, iou: overlap(anchor, box) })).sort((one, other) => other.iou - one.iou);
  return found.filter(({ iou }, rank) => iou > 0 && (rank === 0 || iou >= threshold));
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
