"use strict";
// Sorts and filters tables, and shows the images that a number leads to. Without it the page is complete.

const number = (cell) => (cell.dataset.value === undefined ? NaN : Number(cell.dataset.value));

function compare(a, b, column, numeric) {
  const [left, right] = [a.cells[column], b.cells[column]];
  if (!numeric) return left.textContent.localeCompare(right.textContent, undefined, { numeric: true });
  const [x, y] = [number(left), number(right)];
  if (Number.isNaN(x) || Number.isNaN(y)) return Number.isNaN(x) - Number.isNaN(y);
  return x - y;
}

function sort(table, head) {
  const column = head.cellIndex;
  const numeric = head.classList.contains("number");
  const before = head.getAttribute("aria-sort");
  const descending = before === "none" ? numeric : before === "ascending"; // the largest numbers come first
  for (const other of table.tHead.rows[0].cells) other.setAttribute("aria-sort", "none");
  head.setAttribute("aria-sort", descending ? "descending" : "ascending");
  const missing = (row) => numeric && Number.isNaN(number(row.cells[column]));
  const rows = [...table.tBodies[0].rows].sort((a, b) => {
    const order = compare(a, b, column, numeric);
    return descending && missing(a) === missing(b) ? -order : order; // rows without a value stay last
  });
  table.tBodies[0].append(...rows);
}

function makeSortable(table) {
  for (const head of table.tHead.rows[0].cells) {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    head.setAttribute("aria-sort", "none");
    button.addEventListener("click", () => sort(table, head));
  }
}

function makeFilter(table) {
  const rows = [...table.tBodies[0].rows];
  if (rows.length < 9) return;
  const input = document.createElement("input");
  const count = document.createElement("output");
  const label = document.createElement("label");
  input.type = "search";
  input.placeholder = "Filter";
  label.className = "filter";
  label.append("Filter rows ", input, count);
  table.closest(".table").before(label);
  input.addEventListener("input", () => {
    const words = input.value.toLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0;
    for (const row of rows) {
      const text = row.textContent.toLowerCase();
      row.hidden = !words.every((word) => text.includes(word));
      shown += !row.hidden;
    }
    count.textContent = words.length ? ` ${shown} of ${rows.length}` : "";
  });
}

// Shows the samples with a key; without a key the first ones, or all.
function show(gallery, key, label, all = false) {
  const items = [...gallery.querySelectorAll("li[data-keys]")];
  const first = Number(gallery.dataset.first);
  let shown = 0;
  items.forEach((item, index) => {
    item.hidden = key ? !item.dataset.keys.split(" ").includes(key) : !all && index >= first;
    shown += !item.hidden;
  });
  const more = gallery.querySelector(".more");
  more.hidden = Boolean(key) || shown === items.length;
  more.textContent = `Show all ${items.length}`;
  for (const button of gallery.querySelectorAll(".groups button")) {
    button.setAttribute("aria-pressed", String((button.dataset.key || "") === (key || "")));
  }
  const status = gallery.querySelector(".status");
  status.hidden = !key;
  status.textContent = key ? `${shown} of ${items.length} images: ${label}` : "";
}

for (const table of document.querySelectorAll("table.sortable")) {
  makeSortable(table);
  makeFilter(table);
}
for (const gallery of document.querySelectorAll(".gallery")) {
  show(gallery);
  gallery.querySelector(".more").addEventListener("click", () => show(gallery, undefined, undefined, true));
}
for (const groups of document.querySelectorAll(".groups")) {
  groups.hidden = groups.children.length < 3; // "all" and one group are the same images
  groups.addEventListener("click", (event) => {
    const button = event.target.closest("button");
    if (button) show(groups.closest(".gallery"), button.dataset.key, button.dataset.label);
  });
}
document.addEventListener("click", (event) => {
  const source = event.target.closest("a[data-key]");
  if (source) show(document.querySelector(source.getAttribute("href")), source.dataset.key, source.dataset.label);
});
addEventListener("beforeprint", () => {
  for (const row of document.querySelectorAll("tr[hidden], li[hidden]")) row.hidden = false;
});
