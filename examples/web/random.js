// NumPy's `default_rng(entropy)`: SeedSequence and PCG64, as far as the draw of memories needs them.

const UINT64 = (1n << 64n) - 1n;
const UINT128 = (1n << 128n) - 1n;
const MULTIPLIER = (2549297995355413924n << 64n) | 4865540595714422341n;
const POOL = 4; // words of 32 bits

/**
 * Words of 32 bits, lowest first, of integers that are not negative.
 * @param {number[]} entropy
 */
function toWords(entropy) {
  return entropy.flatMap((number) => {
    const words = [number >>> 0];
    for (let rest = Math.floor(number / 2 ** 32); rest > 0; rest = Math.floor(rest / 2 ** 32)) words.push(rest >>> 0);
    return words;
  });
}

/**
 * A hash of words whose constant moves on at each call.
 * @param {number} constant
 * @param {number} multiplier
 */
function hashWith(constant, multiplier) {
  return (/** @type {number} */ word) => {
    const before = constant;
    constant = Math.imul(constant, multiplier) >>> 0;
    const hashed = Math.imul(word ^ before, constant) >>> 0;
    return (hashed ^ (hashed >>> 16)) >>> 0;
  };
}

/**
 * Mix two words.
 * @param {number} x
 * @param {number} y
 */
function mix(x, y) {
  const mixed = (Math.imul(0xca01f9dd, x) - Math.imul(0x4973f715, y)) >>> 0;
  return (mixed ^ (mixed >>> 16)) >>> 0;
}

/**
 * SeedSequence(entropy).generate_state(count, uint64)
 * @param {number[]} entropy
 * @param {number} count
 */
function seedState(entropy, count) {
  const words = toWords(entropy);
  const hash = hashWith(0x43b0d7e5, 0x931e8875);
  const pool = Array.from({ length: POOL }, (_, i) => hash(words[i] ?? 0));
  for (let from = 0; from < POOL; from++) {
    for (let to = 0; to < POOL; to++) if (from !== to) pool[to] = mix(pool[to], hash(pool[from]));
  }
  for (const word of words.slice(POOL)) {
    for (let to = 0; to < POOL; to++) pool[to] = mix(pool[to], hash(word));
  }
  const expand = hashWith(0x8b51f9dd, 0x58f38ded);
  return Array.from({ length: count }, (_, i) => {
    const [low, high] = [2 * i, 2 * i + 1].map((place) => BigInt(expand(pool[place % POOL])));
    return (high << 32n) | low;
  });
}

export class Generator {
  /** @param {number[]} entropy integers that are not negative, as in `np.random.default_rng((7, 12, 1))` */
  constructor(entropy) {
    const [stateHigh, stateLow, streamHigh, streamLow] = seedState(entropy, 4);
    this.increment = ((((streamHigh << 64n) | streamLow) << 1n) | 1n) & UINT128;
    this.state = (this.increment + ((stateHigh << 64n) | stateLow)) & UINT128;
    this.advance();
  }

  advance() {
    this.state = (this.state * MULTIPLIER + this.increment) & UINT128;
  }

  /** The next 64 bits. */
  next() {
    this.advance();
    const folded = (this.state >> 64n) ^ (this.state & UINT64);
    const turn = this.state >> 122n;
    return ((folded >> turn) | (folded << (64n - turn))) & UINT64;
  }

  /** A number from [0, 1). */
  random() {
    return Number(this.next() >> 11n) / 2 ** 53;
  }

  /** Gumbel noise of scale 1 around 0. */
  gumbel() {
    for (;;) {
      const uniform = 1 - this.random();
      if (uniform < 1) return -Math.log(-Math.log(uniform));
    }
  }
}
