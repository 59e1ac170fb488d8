// Non-maximum suppression, one kept box at a time.
"use strict";
(() => {
  const { el, number, slider, player, panel, mount } = explainers.ui;
  const { addBox, animal, image } = explainers.scene;
  const { iou, suppress } = explainers.boxes;

  const [WIDTH, HEIGHT] = [300, 220];
  const SCORES = [0.95, 0.9, 0.84, 0.78, 0.71, 0.62, 0.44];
  const BOXES = [
    [28, 62, 140, 168],
    [42, 74, 152, 176],
    [142, 58, 256, 164],
    [14, 50, 120, 156],
    [156, 74, 268, 172],
    [100, 66, 212, 170],
    [190, 20, 286, 110],
  ];

  mount("nms", (root) => {
    const boxes = BOXES.map((box) => [...box]);
    let threshold = 0.5;
    let turn = 0; // kept boxes so far
    const figure = image("Seven detections to drag, around two animals", WIDTH, HEIGHT);
    figure.append(animal(84, 116, 1.25), animal(200, 116, 1.25, -1));
    const shapes = boxes.map((box, i) =>
      addBox(figure, {
        box,
        label: `Detection ${i + 1}`,
        width: WIDTH,
        height: HEIGHT,
        resizable: false,
        onChange: draw,
      }),
    );
    const body = el("tbody");
    const table = el(
      "table",
      { class: "e-table" },
      el(
        "thead",
        {},
        el("tr", {}, ...["box", "score", "IoU", "state"].map((name) => el("th", { text: name, scope: "col" }))),
      ),
      body,
    );
    const rows = boxes.map((_, i) => {
      const cells = [`${i + 1}`, number(SCORES[i]), "", ""].map((text) => el("td", { text }));
      body.append(el("tr", {}, ...cells));
      return cells;
    });
    const status = el("p", { class: "e-note e-lines-2", role: "status" });
    const code = el("code", { class: "e-code" });

    function draw() {
      const turns = suppress(boxes, SCORES, threshold);
      turn = Math.min(turn, turns.length);
      const done = turns.slice(0, turn);
      const by = boxes.map((_, i) => done.find((one) => one.suppressed.includes(i))?.kept);
      const latest = done[done.length - 1];
      boxes.forEach((box, i) => {
        const kept = done.some((one) => one.kept === i);
        const state = kept ? "kept" : by[i] === undefined ? "waiting" : `suppressed by ${by[i] + 1}`;
        shapes[i].draw(
          kept ? "e-stroke-c e-strong" : by[i] === undefined ? "e-stroke-a" : "e-stroke-b e-faint",
          `${i + 1}`,
        );
        const overlap = latest && latest.kept !== i ? iou(boxes[latest.kept], box) : null;
        rows[i][2].textContent = overlap === null ? "–" : number(overlap);
        rows[i][3].textContent = state;
        rows[i][3].className = kept ? "e-c" : by[i] === undefined ? "" : "e-b";
      });
      status.textContent = latest
        ? `Turn ${turn} of ${turns.length}: box ${latest.kept + 1} has the highest score of the rest and is kept. ` +
          (latest.suppressed.length
            ? `It suppresses ${latest.suppressed.map((i) => i + 1).join(", ")}: IoU above ${number(threshold)}.`
            : `No other box has an IoU above ${number(threshold)} with it.`)
        : "All boxes wait, ordered by score. Press Step.";
      const kept = turns.map((one) => one.kept).join(", ");
      code.textContent = `torchvision.ops.nms(boxes, scores, iou_threshold=${number(threshold)})  # [${kept}], from 0`;
      return turn < turns.length;
    }

    const limit = slider({
      label: "threshold",
      min: 0,
      max: 1,
      step: 0.05,
      value: threshold,
      format: (value) => number(value),
      onInput: (value) => {
        threshold = value;
        draw();
      },
    });
    const playing = player({
      onStep: () => {
        turn += 1;
        return draw();
      },
      onReset: () => {
        turn = 0;
        boxes.forEach((box, i) => box.splice(0, 4, ...BOXES[i]));
        draw();
      },
      interval: () => 1300,
    });
    root.append(
      el(
        "div",
        { class: "e-panels" },
        panel("Detections of one class", figure),
        panel("Order of suppression; IoU with the box kept last", table),
      ),
      playing.node,
      status,
      el("div", { class: "e-controls" }, limit.node),
      code,
    );
    turn = 1;
    draw();
  });
})();
