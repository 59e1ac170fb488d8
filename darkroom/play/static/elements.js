// Elements of the page: controls with labels, bars, panels.

export function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (value === true) made.setAttribute(name, "");
    else if (value !== false && value !== undefined && value !== null) made.setAttribute(name, value);
  }
  made.append(...children);
  return made;
}

let count = 0;

// Returns a slider with its label and value; set(value) moves it without a call of onInput.
export function slider(label, { min, max, step, value, format = (one) => String(one), onInput }) {
  const id = `control-${++count}`;
  const shown = element("output", { for: id }, format(value));
  const input = element("input", { id, type: "range", min, max, step, value });
  const show = () => {
    shown.textContent = format(Number(input.value));
    input.setAttribute("aria-valuetext", shown.textContent);
  };
  input.addEventListener("input", () => {
    show();
    onInput?.(Number(input.value));
  });
  show();
  const made = element("div", { class: "control" }, element("label", { for: id }, label), shown, input);
  made.set = (next) => {
    input.value = next;
    show();
  };
  made.get = () => Number(input.value);
  return made;
}

// Returns a choice of one of several; options are names, and its value is their index.
export function choice(label, options, value, onInput) {
  const id = `control-${++count}`;
  const items = options.map((name, index) => element("option", { value: index, selected: index === value }, name));
  const input = element("select", { id, onchange: () => onInput?.(Number(input.value)) }, ...items);
  const made = element("div", { class: "control" }, element("label", { for: id }, label), input);
  made.get = () => Number(input.value);
  made.set = (next) => {
    input.value = next;
  };
  return made;
}

// Returns a line of text; onChange is called when it was edited.
export function field(label, value, onChange) {
  const id = `control-${++count}`;
  const input = element("input", { id, type: "text", value, autocomplete: "off", onchange: () => onChange?.() });
  const made = element("div", { class: "control" }, element("label", { for: id }, label), input);
  made.get = () => input.value;
  made.set = (next) => {
    input.value = next;
  };
  return made;
}

export function button(label, onClick) {
  return element("button", { type: "button", onclick: onClick }, label);
}

export function panel(title, ...children) {
  return element("section", { class: "panel", "aria-label": title }, element("h2", {}, title), ...children);
}

export function widePanel(title, ...children) {
  const made = panel(title, ...children);
  made.classList.add("wide");
  return made;
}

export function note(...words) {
  return element("p", { class: "note" }, ...words);
}

// Returns a list of bars: show([{ name, value, colour }]) draws them, with values in [0, 1].
export function bars(label) {
  const list = element("ol", { class: "bars", "aria-label": label });
  list.show = (rows) => {
    list.replaceChildren(
      ...rows.map(({ name, value, colour }) => {
        const fill = element("i", { style: `width:${100 * value}%;background:${colour ?? "var(--accent)"}` });
        return element("li", {}, element("span", {}, name), element("span", { class: "bar" }, fill), element("b", {}, percent(value)));
      }),
    );
  };
  return list;
}

export function percent(value) {
  return `${(100 * value).toFixed(value > 0.0995 || value === 0 ? 0 : 1)} %`;
}

// The colour of a class as [red, green, blue]; classes beyond the palette have its colours again.
export function colourAt(colours, id) {
  return colours[id % colours.length];
}

export function colourOf(colours, id) {
  const [red, green, blue] = colourAt(colours, id);
  return `rgb(${red} ${green} ${blue})`;
}

export function milliseconds(value) {
  return `${value < 10 ? value.toFixed(1) : Math.round(value)} ms`;
}

// Returns the line with the latency, which screen readers announce.
export function statusLine() {
  const line = element("p", { class: "status", role: "status" }, "Loading the model");
  line.show = (text) => {
    line.textContent = text;
  };
  return line;
}

// The largest first.
export function ranking(values, names, colours, most = 8) {
  const rows = Array.from(values, (value, index) => ({ name: names[index] ?? String(index), value, colour: colours && colourOf(colours, index) }));
  return rows.sort((one, other) => other.value - one.value).slice(0, most);
}
