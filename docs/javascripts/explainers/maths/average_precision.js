// Precision, recall and average precision of a ranked list of detections.
"use strict";
(() => {
  /** Precision and recall after each rank, of a list of true (1) and false (0) positives, best score first. */
  function curve(right, objects) {
    let found = 0;
    return right.map((hit, i) => {
      found += hit ? 1 : 0;
      return { found, precision: found / (i + 1), recall: found / objects };
    });
  }

  /** Highest precision at this rank or a later one. */
  function envelope(points) {
    const best = points.map((point) => point.precision);
    for (let i = best.length - 2; i >= 0; i--) best[i] = Math.max(best[i], best[i + 1]);
    return best;
  }

  /** Interpolated precision at recall r: the highest at this recall or a higher one; 0 where it is never reached. */
  function interpolated(points, reached) {
    const best = envelope(points);
    return (level) => best[points.findIndex((point) => reached(point, level))] ?? 0;
  }

  const mean = (values) => values.reduce((sum, value) => sum + value, 0) / values.length;

  /** VOC until 2009: mean at the recalls 0, .1, ..., 1. Whole numbers are compared: 3 * .1 is not .3. */
  function elevenPoint(right, objects) {
    const at = interpolated(curve(right, objects), (point, tenth) => 10 * point.found >= tenth * objects);
    return mean(Array.from({ length: 11 }, (_, tenth) => at(tenth)));
  }

  /** VOC from 2010 on: the area below the interpolated precision. */
  function allPoint(right, objects) {
    const best = envelope(curve(right, objects));
    return best.reduce((sum, precision, i) => sum + (right[i] ? precision : 0), 0) / objects;
  }

  /** COCO, at one IoU: mean at the recalls 0, .01, ..., 1, which are those of numpy's linspace. */
  function hundredOnePoint(right, objects) {
    const at = interpolated(curve(right, objects), (point, recall) => point.recall >= recall);
    return mean(Array.from({ length: 101 }, (_, i) => at(i === 100 ? 1 : i * 0.01)));
  }

  globalThis.explainers = Object.assign(globalThis.explainers ?? {}, {
    averagePrecision: { curve, envelope, elevenPoint, allPoint, hundredOnePoint },
  });
})();
