// Precision, recall and three average precisions of a ranked list, whose detections can be switched.
"use strict";
(() => {
  const { el, svg, set, number, slider, choice, button, panel, mount } = explainers.ui;
  const { plot, range } = explainers.plot;
  const { curve, envelope, elevenPoint, allPoint, hundredOnePoint } = explainers.averagePrecision;

  const RIGHT = [1, 1, 0, 1, 1, 0, 0, 1, 0, 1, 0, 0];
  const SCORES = RIGHT.map((_, i) => 0.97 - 0.07 * i);
  const KINDS = {
    all: { name: "VOC, all points", of: allPoint, says: "area below the orange line" },
    eleven: {
      name: "VOC 2007, 11 points",
      of: elevenPoint,
      levels: range(0, 1, 11),
      says: "mean height of the orange line at 11 recalls",
    },
    coco: {
      name: "COCO, 101 points",
      of: hundredOnePoint,
      levels: range(0, 1, 101),
      says: "mean height of the orange line at 101 recalls",
    },
  };

  mount("average_precision", (root) => {
    const right = [...RIGHT];
    let objects = 8;
    let kind = "all";
    let cursor = 4;
    const ticks = [0, 0.2, 0.4, 0.6, 0.8, 1];
    const axes = plot({
      label: "Precision by recall",
      height: 250,
      x: [0, 1],
      y: [0, 1.02],
      xTicks: ticks,
      yTicks: ticks,
      xLabel: "recall",
      yLabel: "precision",
    });
    const area = svg("path", { class: "e-fill-b e-soft" });
    axes.node.append(area);
    const raw = axes.line("e-stroke-a");
    const best = axes.line("e-stroke-b");
    const levels = svg("g");
    const dots = right.map(() => svg("circle", { r: 3, class: "e-fill-a" }));
    const ring = svg("circle", { r: 7, class: "e-line e-stroke-a" });
    axes.node.append(levels, ...dots, ring);

    const body = el("tbody");
    const head = ["rank", "score", "true positive", "precision", "recall"].map((text) =>
      el("th", { text, scope: "col" }),
    );
    const table = el("table", { class: "e-table" }, el("thead", {}, el("tr", {}, ...head)), body);
    const rows = right.map((hit, i) => {
      const box = el("input", { type: "checkbox", "aria-label": `Detection ${i + 1} is a true positive` });
      box.checked = Boolean(hit);
      box.addEventListener("change", () => {
        right[i] = box.checked ? 1 : 0;
        cursor = i;
        draw();
      });
      const precision = el("td");
      const recall = el("td");
      const row = el(
        "tr",
        {},
        el("td", { text: i + 1 }),
        el("td", { text: number(SCORES[i]) }),
        el("td", {}, box),
        precision,
        recall,
      );
      for (const event of ["pointerenter", "focusin"])
        row.addEventListener(event, () => {
          cursor = i;
          draw();
        });
      body.append(row);
      return { row, box, precision, recall };
    });

    const values = el("p", { class: "e-formula", role: "status" });
    const note = el("p", { class: "e-note" });
    const code = el("code", { class: "e-code" });
    const total = slider({
      label: "objects",
      min: 1,
      max: 16,
      value: objects,
      onInput: (value) => {
        objects = value;
        draw();
      },
    });

    function draw() {
      const found = right.reduce((sum, hit) => sum + hit, 0);
      total.limit({ min: Math.max(1, found) });
      objects = Math.max(objects, found, 1);
      total.set(objects);
      const points = curve(right, objects);
      const heights = envelope(points);
      raw.to([[0, points[0].precision], ...points.map((point) => [point.recall, point.precision])]);
      // Steps of the interpolated precision: each height reaches from the recall before to its own.
      const steps = points.flatMap(({ recall }, i) => [
        [i ? points[i - 1].recall : 0, heights[i]],
        [recall, heights[i]],
      ]);
      const last = points[points.length - 1].recall;
      best.to([...steps, [last, 0], [1, 0]]);
      set(area, { d: `M${[[0, 0], ...steps, [last, 0]].map(([x, y]) => `${axes.X(x)} ${axes.Y(y)}`).join("L")}Z` });
      set(area, { opacity: kind === "all" ? 1 : 0 });
      const at = (level) => heights[points.findIndex((point) => point.recall >= level - 1e-12)] ?? 0;
      levels.replaceChildren(
        ...(KINDS[kind].levels ?? []).map((level) =>
          svg("path", { d: `M${axes.X(level)} ${axes.Y(0)}V${axes.Y(at(level))}`, class: `e-line e-thin e-stroke-b` }),
        ),
      );
      points.forEach(({ precision, recall }, i) => {
        set(dots[i], { cx: axes.X(recall), cy: axes.Y(precision) });
        rows[i].precision.textContent = `${points[i].found}/${i + 1} = ${number(precision)}`;
        rows[i].recall.textContent = `${points[i].found}/${objects} = ${number(recall)}`;
        rows[i].row.className = i === cursor ? "e-current" : "";
      });
      set(ring, { cx: axes.X(points[cursor].recall), cy: axes.Y(points[cursor].precision) });
      values.innerHTML = Object.entries(KINDS)
        .map(
          ([key, { name, of }]) =>
            `${name}: <b${key === kind ? ' class="e-b"' : ""}>${number(of(right, objects), 3)}</b>`,
        )
        .join("<br>");
      note.textContent = `${KINDS[kind].name}: ${KINDS[kind].says}.`;
      const flags = right.map((hit) => (hit ? "True" : "False")).join(", ");
      code.textContent = `average_precisions(torch.tensor([${flags}]), objects=${objects})  # all points, 11 points`;
    }

    const kinds = choice({
      label: "AP",
      options: Object.fromEntries(Object.entries(KINDS).map(([key, { name }]) => [key, name])),
      value: kind,
      onChange: (key) => {
        kind = key;
        draw();
      },
    });
    const reset = button("Reset", () => {
      right.splice(0, right.length, ...RIGHT);
      rows.forEach(({ box }, i) => (box.checked = Boolean(RIGHT[i])));
      objects = 8;
      draw();
    });
    root.append(
      kinds,
      el(
        "div",
        { class: "e-panels" },
        panel("Detections, best score first", table),
        panel("Precision and recall", axes.node, note),
      ),
      el("div", { class: "e-controls" }, total.node, el("div", { class: "e-buttons" }, reset)),
      values,
      code,
    );
    draw();
  });
})();
