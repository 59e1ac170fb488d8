// Images: from files to the planes that graphs take, and back to canvases.

export function makeCanvas(width, height) {
  const canvas = document.createElement("canvas");
  canvas.width = width;
  canvas.height = height;
  return canvas;
}

export function context(canvas) {
  return canvas.getContext("2d", { willReadFrequently: true });
}

export async function decode(address) {
  const image = new Image();
  image.src = address;
  await image.decode();
  return image;
}

export function pngAddress(base64) {
  return `data:image/png;base64,${base64}`;
}

// Returns the pixels of an image, of its middle and scaled where its sides differ from these.
export function fit(image, width, height) {
  const canvas = makeCanvas(width, height);
  const scale = Math.max(width / image.width, height / image.height);
  const [wide, high] = [image.width * scale, image.height * scale];
  const drawing = context(canvas);
  drawing.imageSmoothingQuality = "high";
  drawing.fillStyle = "#fff"; // below transparent pixels
  drawing.fillRect(0, 0, width, height);
  drawing.drawImage(image, (width - wide) / 2, (height - high) / 2, wide, high);
  return drawing.getImageData(0, 0, width, height);
}

// Returns uint8 (C, H, W) of pixels; grey is the luma of ITU-R 601.
export function toPlanes({ data, width, height }, channels) {
  const size = width * height;
  const planes = new Uint8Array(channels * size);
  for (let index = 0; index < size; index++) {
    const [red, green, blue] = [data[4 * index], data[4 * index + 1], data[4 * index + 2]];
    if (channels === 1) planes[index] = Math.round(0.299 * red + 0.587 * green + 0.114 * blue);
    else for (let channel = 0; channel < 3; channel++) planes[channel * size + index] = data[4 * index + channel];
  }
  return planes;
}

// Returns the pixels of planes (C, H, W) in [0, 255], from a place in the array.
export function fromPlanes(planes, [channels, height, width], start = 0) {
  const pixels = new ImageData(width, height);
  const size = width * height;
  for (let index = 0; index < size; index++) {
    for (let channel = 0; channel < 3; channel++) {
      pixels.data[4 * index + channel] = planes[start + (channels === 1 ? 0 : channel) * size + index];
    }
    pixels.data[4 * index + 3] = 255;
  }
  return pixels;
}

// Returns the pixels of values (C, H, W) in [-1, 1].
export function fromValues(values, shape, start = 0) {
  const size = shape.reduce((one, other) => one * other, 1);
  const planes = new Uint8ClampedArray(size);
  for (let index = 0; index < size; index++) planes[index] = (values[start + index] + 1) * 127.5;
  return fromPlanes(planes, shape);
}

export function paint(canvas, pixels) {
  if (canvas.width !== pixels.width || canvas.height !== pixels.height) {
    canvas.width = pixels.width;
    canvas.height = pixels.height;
  }
  context(canvas).putImageData(pixels, 0, 0);
}

// Returns a canvas for pixels of this size, which the style sheet enlarges.
export function picture(label, width, height) {
  const canvas = makeCanvas(width, height);
  canvas.className = "picture";
  canvas.setAttribute("role", "img");
  canvas.setAttribute("aria-label", label);
  return canvas;
}

// The largest of values; Math.max(...values) overflows the stack for the pixels of an image.
export function largestOf(values) {
  return values.reduce((one, other) => Math.max(one, other), -Infinity);
}

const HEAT = [255, 140, 60];

// Returns the pixels with a heat in [0, 1] for each, blended over them.
export function blendHeat(pixels, heat) {
  const blended = new ImageData(pixels.width, pixels.height);
  for (let index = 0; index < heat.length; index++) {
    const place = 4 * index;
    const grey = (pixels.data[place] + pixels.data[place + 1] + pixels.data[place + 2]) / 3;
    const weight = Math.min(1, Math.max(0, heat[index]));
    HEAT.forEach((value, channel) => {
      blended.data[place + channel] = (1 - weight) * grey * 0.55 + weight * value;
    });
    blended.data[place + 3] = 255;
  }
  return blended;
}
