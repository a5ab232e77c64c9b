// Runs of frames with one value each, [first, last, value], in the order of frames: how the server tells timelines.

/** The value of a frame, undefined where no run has it. */
export function valueAt(runs, frame) {
  let [low, high] = [0, runs.length];
  while (low < high) {
    const middle = (low + high) >> 1;
    if (runs[middle][1] < frame) low = middle + 1;
    else high = middle;
  }
  return low < runs.length && runs[low][0] <= frame ? runs[low][2] : undefined;
}

/** Return the runs with another value, or none (null), from `first` to `last`. */
export function withRun(runs, [first, last, value]) {
  const before = runs.filter((run) => run[0] < first).map((run) => [run[0], Math.min(run[1], first - 1), run[2]]);
  const after = runs.filter((run) => run[1] > last).map((run) => [Math.max(run[0], last + 1), run[1], run[2]]);
  const all = value === null ? [...before, ...after] : [...before, [first, last, value], ...after];
  return all.reduce((merged, run) => {
    const end = merged.at(-1);
    if (end && end[1] + 1 === run[0] && end[2] === run[2]) end[1] = run[1];
    else merged.push([...run]);
    return merged;
  }, []);
}

const NO_MASK = 3; // of an accepted frame
const STALE = 4; // added to the kind
const ACCEPTED = 8;

/** The kind in a timeline's value: 0 an empty mask, 1 a mask, 2 a doubtful one; undefined where there is none. */
export const kindOf = (value) => (value === undefined || (value & 3) === NO_MASK ? undefined : value & 3);
/** Whether a correction has made the mask stale. */
export const isStale = (value) => (value & STALE) !== 0;
/** Whether a person has accepted the object on the frame. */
export const isAccepted = (value) => (value & ACCEPTED) !== 0;
