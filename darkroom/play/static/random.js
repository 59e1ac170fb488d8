// Random numbers of torch on a CPU: the same seed gives the same latents and noise as in darkroom predict.

const [SIZE, SHIFT] = [624, 397];

// Mersenne Twister (Matsumoto & Nishimura 1998).
export class Twister {
  constructor(seed) {
    this.state = new Uint32Array(SIZE);
    this.state[0] = seed >>> 0;
    for (let index = 1; index < SIZE; index++) {
      const before = this.state[index - 1] ^ (this.state[index - 1] >>> 30);
      this.state[index] = Math.imul(1812433253, before) + index;
    }
    this.place = SIZE;
  }

  refill() {
    const state = this.state;
    for (let index = 0; index < SIZE; index++) {
      const bits = (state[index] & 0x80000000) | (state[(index + 1) % SIZE] & 0x7fffffff);
      state[index] = state[(index + SHIFT) % SIZE] ^ (bits >>> 1) ^ (bits & 1 ? 0x9908b0df : 0);
    }
    this.place = 0;
  }

  bits() {
    if (this.place === SIZE) this.refill();
    let value = this.state[this.place++];
    value ^= value >>> 11;
    value ^= (value << 7) & 0x9d2c5680;
    value ^= (value << 15) & 0xefc60000;
    return (value ^ (value >>> 18)) >>> 0;
  }

  // Numbers in [0, 1) with 24 bits, as torch.rand.
  uniform(count) {
    return Float64Array.from({ length: count }, () => (this.bits() & 0xffffff) * 2 ** -24);
  }

  // Numbers of torch.randn: Box-Muller on blocks of 16, in which value i and value i + 8 are a pair. A rest overwrites the
  // last 16 values by new ones. Fewer than 16 numbers are generated one by one, from doubles of 53 bits.
  normal(count) {
    if (count < 16) return this.normalOneByOne(count);
    const values = this.uniform(count);
    const rest = count % 16;
    for (let start = 0; start + 16 <= count; start += 16) pairUp(values, start);
    if (rest) {
      values.set(this.uniform(16), count - 16);
      pairUp(values, count - 16);
    }
    return Float32Array.from(values);
  }

  normalOneByOne(count) {
    const values = new Float32Array(count);
    let kept = null;
    for (let index = 0; index < count; index++) {
      if (kept !== null) {
        values[index] = kept;
        kept = null;
        continue;
      }
      const [angle, squared] = [this.double(), this.double()];
      const radius = Math.sqrt(-2 * Math.log1p(-squared));
      kept = radius * Math.sin(2 * Math.PI * angle);
      values[index] = radius * Math.cos(2 * Math.PI * angle);
    }
    return values;
  }

  // Number in [0, 1) with 53 bits, from two outputs of 32 bits, the higher bits first.
  double() {
    const [high, low] = [this.bits(), this.bits()];
    return ((high & 0x1fffff) * 2 ** 32 + low) * 2 ** -53;
  }
}

function pairUp(values, start) {
  for (let index = start; index < start + 8; index++) {
    const [first, second] = [values[index], values[index + 8]];
    const radius = Math.sqrt(-2 * Math.log(1 - first));
    values[index] = radius * Math.cos(2 * Math.PI * second);
    values[index + 8] = radius * Math.sin(2 * Math.PI * second);
  }
}
