// Intersection over union of two boxes.
"use strict";
(() => {
  const { el, svg, set, number, panel, mount } = explainers.ui;
  const { addBox, image } = explainers.scene;
  const { area, intersection, iou } = explainers.boxes;

  const [WIDTH, HEIGHT] = [300, 200];

  mount("iou", (root) => {
    const [a, b] = [
      [50, 40, 170, 140],
      [110, 70, 250, 160],
    ];
    const figure = image("Two boxes to drag", WIDTH, HEIGHT);
    const shared = svg("rect", { class: "e-shared" });
    figure.append(shared);
    const first = addBox(figure, { box: a, label: "Box A", width: WIDTH, height: HEIGHT, onChange: draw });
    const second = addBox(figure, { box: b, label: "Box B", width: WIDTH, height: HEIGHT, onChange: draw });
    const bar = svg("svg", { viewBox: "0 0 300 200", role: "img", "aria-label": "Areas as bars" });
    const rows = ["only A", "A ∩ B", "only B"].map((name, i) => {
      const style = ["a", "c", "b"][i];
      const piece = svg("rect", { y: 60, height: 34, class: `e-fill-${style}` });
      const text = svg("text", { y: 20 + 16 * i, x: 0, text: name });
      bar.append(piece, text);
      return { piece, text, name };
    });
    const either = svg("path", { class: "e-axis" });
    const union = svg("text", { y: 122, "text-anchor": "middle" });
    const meter = svg("rect", { y: 150, height: 12, class: "e-fill-c" });
    const scale = svg("path", { class: "e-axis", d: "M0 150H300V162H0Z" });
    const ticks = [0, 0.25, 0.5, 0.75, 1].map((tick) =>
      svg("text", {
        x: 300 * tick,
        y: 178,
        "text-anchor": tick === 0 ? "start" : tick === 1 ? "end" : "middle",
        text: tick,
      }),
    );
    bar.append(either, union, meter, scale, ...ticks);
    const formula = el("p", { class: "e-formula", role: "status" });
    const code = el("code", { class: "e-code" });

    function draw() {
      const both = area(intersection(a, b));
      const all = area(a) + area(b) - both;
      const [x1, y1, x2, y2] = intersection(a, b);
      set(shared, { x: x1, y: y1, width: Math.max(0, x2 - x1), height: Math.max(0, y2 - y1) });
      first.draw("e-stroke-a", "A");
      second.draw("e-stroke-b", "B");
      const sizes = [area(a) - both, both, area(b) - both];
      let left = 0;
      rows.forEach(({ piece, text, name }, i) => {
        const width = (300 * sizes[i]) / (WIDTH * HEIGHT);
        set(piece, { x: left, width });
        set(text, { text: `${name}: ${Math.round(sizes[i])} px` });
        left += width;
      });
      set(either, { d: `M0 104v4H${left.toFixed(1)}v-4` });
      set(union, { x: Math.max(70, left / 2), text: `A ∪ B: ${Math.round(all)} px` });
      const value = iou(a, b);
      set(meter, { width: 300 * value });
      formula.innerHTML = `IoU = |A ∩ B| / |A ∪ B| = ${Math.round(both)} / ${Math.round(all)} = <b class="e-c">${number(value, 3)}</b>`;
      const list = (box) => `[${box.map((x) => Math.round(x)).join(", ")}]`;
      code.textContent = `torchvision.ops.box_iou(torch.tensor([${list(a)}]), torch.tensor([${list(b)}]))`;
    }

    root.append(
      el("div", { class: "e-panels" }, panel("Boxes A and B", figure), panel("Areas, and IoU", bar)),
      formula,
      code,
    );
    draw();
  });
})();
