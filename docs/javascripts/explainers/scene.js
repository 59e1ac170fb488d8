// Boxes that can be dragged and resized within an image, for the explainers of detection.
"use strict";
(() => {
  const { svg, set, draggable, knob, clamp } = explainers.ui;

  /**
   * Add a box [x1, y1, x2, y2] to an SVG of `width` x `height`: drag its inside to move it, its corner to resize it.
   *
   * `onChange()` is called after every change; the box's array is changed in place. Returns the group, and
   * `draw(style, text)`, which shows its present place.
   */
  function addBox(figure, { box, label, width, height, resizable = true, onChange }) {
    const body = svg("rect", { class: "e-box" });
    const tag = svg("text", { class: "e-tag" });
    const move = (x, y) => {
      const [w, h] = [box[2] - box[0], box[3] - box[1]];
      const [left, top] = [clamp(x, 0, width - w), clamp(y, 0, height - h)];
      box.splice(0, 4, left, top, left + w, top + h);
      onChange();
    };
    const resize = (x, y) => {
      box.splice(2, 2, clamp(x, box[0] + 12, width), clamp(y, box[1] + 12, height));
      onChange();
    };
    const place = () =>
      `from ${Math.round(box[0])}, ${Math.round(box[1])} to ${Math.round(box[2])}, ${Math.round(box[3])}`;
    const inside = svg("g", {}, body);
    const corner = knob("");
    const group = svg("g", { class: "e-boxed" }, inside, tag);
    draggable(inside, { label: `${label}: position`, get: () => [box[0], box[1]], move, describe: place });
    if (resizable) {
      draggable(corner, { label: `${label}: size`, get: () => [box[2], box[3]], move: resize, describe: place });
      group.append(corner);
    }
    figure.append(group);
    const draw = (style, text = "") => {
      const [x, y, right, bottom] = box;
      set(group, { class: `e-boxed ${style}` });
      set(body, { x, y, width: right - x, height: bottom - y });
      set(tag, { x: x + 3, y: y + 11, text });
      set(corner, { transform: `translate(${right} ${bottom})` });
    };
    return { group, draw };
  }

  /** Animals of ellipses, so that boxes have something to find; at (x, y), of a size, facing left or right. */
  function animal(x, y, size, turn = 1) {
    const shape = (cx, cy, rx, ry) => svg("ellipse", { cx, cy, rx, ry });
    const parts = [
      shape(0, 0, 30, 18),
      shape(30, -16, 12, 11),
      shape(38, -13, 7, 5),
      shape(24, -26, 3, 7),
      shape(33, -27, 3, 7),
    ];
    for (const leg of [-22, -12, 12, 22]) parts.push(shape(leg, 20, 4, 14));
    parts.push(shape(-33, -8, 9, 3));
    return svg(
      "g",
      { class: "e-animal", transform: `translate(${x} ${y}) scale(${size * turn} ${size})`, "aria-hidden": "true" },
      ...parts,
    );
  }

  /** Empty image with a frame. */
  const image = (label, width, height) =>
    svg(
      "svg",
      { viewBox: `0 0 ${width} ${height}`, role: "group", "aria-label": label, class: "e-scene" },
      svg("rect", { width, height, class: "e-frame" }),
    );

  globalThis.explainers = Object.assign(globalThis.explainers ?? {}, { scene: { addBox, animal, image } });
})();
