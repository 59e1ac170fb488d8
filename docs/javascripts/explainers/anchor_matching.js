// Anchors matched to true boxes, by the rules of Faster R-CNN and SSD.
"use strict";
(() => {
  const { el, svg, set, number, slider, choice, button, panel, mount } = explainers.ui;
  const { addBox, image } = explainers.scene;
  const { iou, matchAnchors, matchDefaultBoxes, anchorGrid } = explainers.boxes;

  const [WIDTH, HEIGHT] = [300, 200];
  const STRIDE = 50;
  const TRUTHS = [
    [32, 34, 128, 136],
    [190, 66, 266, 108],
  ];
  const STYLES = ["a", "d"];
  const ANCHORS = anchorGrid({ width: WIDTH, height: HEIGHT, stride: STRIDE, sizes: [56, 100], ratios: [0.5, 1, 2] });

  mount("anchor_matching", (root) => {
    const truths = TRUTHS.map((box) => [...box]);
    let rule = "faster_rcnn";
    const limits = { high: 0.7, low: 0.3, ssd: 0.5 };
    const figure = image("Two true boxes to drag, and the anchors that are matched to them", WIDTH, HEIGHT);
    const grid = svg("g", { class: "e-fill-muted" });
    for (let y = STRIDE / 2; y < HEIGHT; y += STRIDE)
      for (let x = STRIDE / 2; x < WIDTH; x += STRIDE) grid.append(svg("circle", { cx: x, cy: y, r: 1.8 }));
    const matched = svg("g");
    figure.append(grid, matched);
    const shapes = truths.map((box, i) =>
      addBox(figure, { box, label: `Truth ${i + 1}`, width: WIDTH, height: HEIGHT, onChange: draw }),
    );

    const heads = ["truth", "highest IoU", "above", "by rank"].map((text) => el("th", { text, scope: "col" }));
    const body = el("tbody");
    const table = el("table", { class: "e-table" }, el("thead", {}, el("tr", {}, ...heads)), body);
    const rows = truths.map((_, i) => {
      const cells = ["", "", ""].map(() => el("td"));
      body.append(el("tr", {}, el("td", { class: `e-${STYLES[i]}`, text: i + 1 }), ...cells));
      return cells;
    });
    const histogram = svg("svg", { viewBox: "0 0 300 120", role: "img", "aria-label": "Anchors by their highest IoU" });
    const totals = el("p", { class: "e-formula", role: "status" });
    const code = el("code", { class: "e-code" });

    function draw() {
      const ssd = rule === "ssd";
      const match = ssd
        ? matchDefaultBoxes(ANCHORS, truths, limits.ssd)
        : matchAnchors(ANCHORS, truths, limits.high, limits.low);
      const threshold = ssd ? limits.ssd : limits.high;
      const highest = ANCHORS.map((anchor) => Math.max(...truths.map((truth) => iou(anchor, truth))));
      const above = (a) => (ssd ? highest[a] > threshold : highest[a] >= threshold);
      matched.replaceChildren();
      match.forEach((truth, a) => {
        if (truth === -1) return;
        const [x1, y1, x2, y2] = ANCHORS[a];
        const style =
          truth === -2 ? "e-anchor e-ignored" : `e-anchor e-stroke-${STYLES[truth]}${above(a) ? "" : " e-rescued"}`;
        matched.append(svg("rect", { x: x1, y: y1, width: x2 - x1, height: y2 - y1, class: style }));
      });
      truths.forEach((truth, i) => {
        shapes[i].draw(`e-stroke-${STYLES[i]} e-strong`, `${i + 1}`);
        const mine = match.flatMap((found, a) => (found === i ? [a] : []));
        const overlap = Math.max(...ANCHORS.map((anchor) => iou(anchor, truth)));
        const over = mine.filter(above).length;
        [number(overlap), over, mine.length - over].forEach((value, c) => (rows[i][c].textContent = value));
      });
      const count = (test) => match.filter(test).length;
      const [positive, ignored] = [count((x) => x >= 0), count((x) => x === -2)];
      totals.innerHTML =
        `${ANCHORS.length} anchors: <b class="e-a">${positive}</b> positive, ` +
        `<b class="e-b">${ignored}</b> ignored, <b>${ANCHORS.length - positive - ignored}</b> background`;
      drawHistogram(highest, match);
      code.textContent = ssd
        ? `assign(default_boxes, boxes, threshold=${number(limits.ssd)})  # index of the truth, -1 background`
        : `Matcher(${number(limits.high)}, ${number(limits.low)}, allow_low_quality_matches=True)(box_iou(boxes, anchors))\n` +
          "# torchvision: index of the truth, -1 background, -2 ignored";
    }

    /** Bars of ten ranges of IoU, from background at the bottom to positive at the top. */
    function drawHistogram(highest, match) {
      const bins = Array.from({ length: 20 }, () => [0, 0, 0]);
      highest.forEach(
        (overlap, a) => bins[Math.min(19, Math.floor(20 * overlap))][match[a] >= 0 ? 2 : match[a] === -2 ? 1 : 0]++,
      );
      const scale = (value) => 9 * Math.sqrt(value); // the background has a hundred anchors, a truth a few
      const bars = bins.flatMap((counts, i) => {
        let below = 0;
        return counts.map((count, kind) => {
          const from = scale(below);
          below += count;
          const height = scale(below) - from;
          const style = ["e-fill-muted", "e-fill-b", "e-fill-a"][kind];
          return svg("rect", { x: 15 * i + 1, y: 100 - from - height, width: 13, height, class: style });
        });
      });
      const cuts = rule === "ssd" ? [limits.ssd] : [limits.low, limits.high];
      const lines = cuts.map((cut) => svg("path", { class: "e-line e-thin e-stroke-c", d: `M${300 * cut} 0V100` }));
      const ticks = [0, 0.25, 0.5, 0.75, 1].map((tick) =>
        svg("text", {
          x: 300 * tick,
          y: 114,
          "text-anchor": tick === 0 ? "start" : tick === 1 ? "end" : "middle",
          text: tick,
        }),
      );
      histogram.replaceChildren(...bars, ...lines, svg("path", { class: "e-axis", d: "M0 100H300" }), ...ticks);
    }

    const slide = (name, label, of) =>
      slider({
        label,
        min: 0,
        max: 1,
        step: 0.05,
        value: limits[name],
        format: (one) => number(one),
        onInput: (value) => {
          limits[name] = value;
          of(value);
          draw();
        },
      });
    const low = slide("low", "background <", (value) => {
      limits.high = Math.max(limits.high, value);
      high.set(limits.high);
    });
    const high = slide("high", "positive ≥", (value) => {
      limits.low = Math.min(limits.low, value);
      low.set(limits.low);
    });
    const ssd = slide("ssd", "positive >", () => {});
    const show = () => {
      ssd.node.hidden = rule !== "ssd";
      low.node.hidden = high.node.hidden = rule === "ssd";
    };
    const rules = choice({
      label: "Rule",
      options: { faster_rcnn: "Faster R-CNN", ssd: "SSD" },
      value: rule,
      onChange: (key) => {
        rule = key;
        show();
        draw();
      },
    });
    const reset = button("Reset boxes", () => {
      truths.forEach((box, i) => box.splice(0, 4, ...TRUTHS[i]));
      draw();
    });
    const legend = el("p", {
      class: "e-note",
      text: "Thick: true boxes. Thin: positive anchors, dashed if matched by rank only. Orange dots: ignored anchors. Grey points: centres of anchors.",
    });
    root.append(
      rules,
      el(
        "div",
        { class: "e-panels" },
        panel("True boxes and matched anchors", figure, legend),
        panel("Anchors by their highest IoU (height: root of the count)", histogram, table),
      ),
      totals,
      el("div", { class: "e-controls" }, high.node, low.node, ssd.node, el("div", { class: "e-buttons" }, reset)),
      code,
    );
    show();
    draw();
  });
})();
