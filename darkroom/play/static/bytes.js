// Bytes that the page has as text: Base64, compressed by gzip.

export function fromBase64(text) {
  if (Uint8Array.fromBase64) return Uint8Array.fromBase64(text);
  const characters = atob(text);
  const bytes = new Uint8Array(characters.length);
  for (let index = 0; index < bytes.length; index++) bytes[index] = characters.charCodeAt(index);
  return bytes;
}

export async function unzip(bytes) {
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

// The content of a part of the page, whose text is then released.
export async function takePart(id) {
  const part = document.getElementById(id);
  const bytes = fromBase64(part.textContent);
  part.remove();
  return unzip(bytes);
}

export function readData() {
  return JSON.parse(document.getElementById("data").textContent);
}
