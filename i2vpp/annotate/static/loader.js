// Loads what is wanted, most wanted first, a few at a time, into a cache with a bound.

import { ApiError } from "./api.js";

const RETRY_MS = 2000;

export class Loader {
  /**
   * load(key, signal) -> Promise of a value; size(value) in the unit of `limit`; ready(key) is called when one arrived or failed.
   */
  constructor({ load, size, limit, slots, ready, dispose = () => {} }) {
    Object.assign(this, { load, size, limit, slots, ready, dispose });
    this.values = new Map(); // in the order of use, oldest first
    this.total = 0;
    this.wanted = [];
    this.running = new Map(); // key -> AbortController
    this.stale = new Set();
    this.failures = new Map(); // key -> message
  }

  get(key) {
    const value = this.values.get(key);
    if (value !== undefined) {
      this.values.delete(key);
      this.values.set(key, value);
    }
    return value;
  }

  has(key) {
    return this.values.has(key);
  }

  /** Whether a value, or a newer one, is still to come. */
  isWaiting(key) {
    if (this.failures.has(key)) return false;
    return !this.values.has(key) || this.stale.has(key) || this.running.has(key);
  }

  /** Replace the list of wanted keys, most wanted first; what is loading and no longer wanted is aborted. */
  want(keys) {
    this.wanted = keys;
    for (const [key, controller] of this.running) {
      if (!keys.includes(key)) {
        controller.abort();
        this.running.delete(key);
      }
    }
    this.pump();
  }

  /** The value is out of date: it stays usable until a new one is here. */
  invalidate(key) {
    this.stale.add(key);
    this.failures.delete(key);
    this.running.get(key)?.abort();
    this.running.delete(key);
  }

  invalidateAll() {
    for (const key of this.values.keys()) this.stale.add(key);
    for (const key of [...this.running.keys()]) this.invalidate(key);
    this.failures.clear();
  }

  clear() {
    this.want([]);
    for (const value of this.values.values()) this.dispose(value);
    this.values.clear();
    this.stale.clear();
    this.failures.clear();
    this.total = 0;
  }

  pump() {
    for (const key of this.wanted) {
      if (this.running.size >= this.slots) return;
      const here = this.values.has(key) && !this.stale.has(key);
      if (!here && !this.running.has(key) && !this.failures.has(key)) this.start(key);
    }
  }

  async start(key) {
    const controller = new AbortController();
    this.running.set(key, controller);
    this.stale.delete(key);
    try {
      const value = await this.load(key, controller.signal);
      if (controller.signal.aborted) this.dispose(value);
      else this.put(key, value);
    } catch (error) {
      if (controller.signal.aborted) return;
      this.fail(key, error);
    }
    if (this.running.get(key) === controller) this.running.delete(key);
    if (!controller.signal.aborted) this.ready(key);
    this.pump();
  }

  fail(key, error) {
    this.failures.set(key, error.message);
    if (!(error instanceof ApiError) || error.status === 0 || error.status >= 500) {
      setTimeout(() => {
        this.failures.delete(key);
        this.pump();
      }, RETRY_MS);
    }
  }

  put(key, value) {
    const old = this.values.get(key);
    if (old !== undefined) {
      this.total -= this.size(old);
      this.dispose(old);
    }
    this.values.delete(key);
    this.values.set(key, value);
    this.total += this.size(value);
    for (const [oldest, evicted] of this.values) {
      if (this.total <= this.limit || oldest === key) break;
      this.values.delete(oldest);
      this.stale.delete(oldest);
      this.total -= this.size(evicted);
      this.dispose(evicted);
    }
  }
}
