// The image that a graph gets: an example of the run's data, a file, or a drawing.
import { button, choice, element, panel, slider } from "./elements.js";
import { decode, fit, pngAddress } from "./pixels.js";
import { Stage } from "./stage.js";

const NAMES = { point: "chooses a pixel", box: "draws a box", stroke: "paints", none: "is off" };

export class Picker {
  // data: content of the page. onImage(pixels, example): after a choice; example is undefined for other images. The pointer
  // chooses pixels or draws boxes where onPoint or onBox is given.
  constructor(data, { onImage, onPoint, onBox }) {
    const [, height, width] = data.image_shape;
    Object.assign(this, { data, width, height, onImage });
    this.stage = new Stage("Image; arrow keys choose a pixel, with Shift in steps of 8", width, height, {
      onPoint,
      onBox,
      onStroke: () => this.give(undefined),
    });
    this.buttons = data.examples.map((example, index) => this.thumbnail(example, index));
    const file = element("input", { type: "file", accept: "image/*", class: "hidden", tabindex: -1, "aria-label": "Image file" });
    file.addEventListener("change", () => file.files[0] && this.open(file.files[0]));
    const modes = [onPoint ? "point" : "none", ...(onBox ? ["box"] : []), "stroke"];
    const pointer = choice("The pointer", modes.map((mode) => NAMES[mode]), 0, (index) => this.setMode(modes[index]));
    const colour = element("input", { type: "color", value: this.stage.brush.colour, "aria-label": "Colour of the brush" });
    colour.addEventListener("input", () => (this.stage.brush.colour = colour.value));
    const size = slider("Brush", { min: 1, max: Math.ceil(width / 3), step: 1, value: 6, format: (one) => `${one} px`, onInput: (one) => (this.stage.brush.size = one) });
    this.brush = element("div", { class: "row", hidden: true }, colour, size, button("Clear", () => this.clear()));
    this.stage.brush.size = size.get();
    const frame = element("div", { class: "drop" }, this.stage.canvas);
    frame.addEventListener("dragover", (event) => event.preventDefault());
    frame.addEventListener("drop", (event) => {
      event.preventDefault();
      if (event.dataTransfer.files[0]) this.open(event.dataTransfer.files[0]);
    });
    this.setMode(modes[0]);
    this.panel = panel(
      "Image",
      frame,
      element("div", { class: "thumbnails", role: "group", "aria-label": "Examples of the test data" }, ...this.buttons),
      element("div", { class: "row" }, button("Open a file", () => file.click()), file, pointer),
      this.brush,
    );
  }

  thumbnail(example, index) {
    const image = element("img", { src: pngAddress(example.image), alt: example.name, width: 48, height: 48 });
    return element("button", { type: "button", class: "thumbnail", "aria-pressed": "false", onclick: () => this.choose(index) }, image);
  }

  async choose(index) {
    this.stage.setPixels(await this.examplePixels(index));
    return this.give(index);
  }

  async examplePixels(index) {
    return fit(await decode(pngAddress(this.data.examples[index].image)), this.width, this.height);
  }

  async open(file) {
    const address = URL.createObjectURL(file);
    try {
      this.stage.setPixels(fit(await decode(address), this.width, this.height));
      this.give(undefined);
    } catch {
      this.data.show(`${file.name} cannot be read as an image; choose a PNG or JPEG`);
    } finally {
      URL.revokeObjectURL(address);
    }
  }

  setMode(mode) {
    this.stage.mode = mode;
    this.brush.hidden = mode !== "stroke";
  }

  clear() {
    const pixels = new ImageData(this.width, this.height);
    this.stage.setPixels(new ImageData(pixels.data.fill(200).map((value, index) => (index % 4 === 3 ? 255 : value)), this.width));
    this.give(undefined);
  }

  give(index) {
    this.buttons.forEach((one, place) => one.setAttribute("aria-pressed", String(place === index)));
    return this.onImage(this.stage.pixels(), index);
  }
}
