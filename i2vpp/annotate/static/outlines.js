// The outline of a mask as closed lines along the edges of its pixels.

/** The mask's outline in video pixels, sharp at any zoom; `runs` are its run lengths. */
export function outlineOf(runs, width, height) {
  const path = new Path2D();
  for (const loop of loopsOf(togglesByRow(runs, width, height), width)) {
    path.moveTo(loop[0], loop[1]);
    for (let i = 2; i < loop.length; i += 2) path.lineTo(loop[i], loop[i + 1]);
    path.closePath();
  }
  return path;
}

/** For each row the columns where the mask begins and ends, in order. */
function togglesByRow(runs, width, height) {
  const rows = Array.from({ length: height }, () => []);
  let at = 0;
  for (let i = 0; i < runs.length; i++) {
    const end = at + runs[i];
    for (let start = at; i % 2 && start < end; ) {
      const row = Math.floor(start / width);
      const stop = Math.min(end, (row + 1) * width);
      rows[row].push(start - row * width, stop - row * width);
      start = stop;
    }
    at = end;
  }
  return rows;
}

/** The closed lines [x, y, x, y, ...] around all that lies between toggles. */
function loopsOf(rows, width) {
  const [xs, ys] = [[], []]; // the ends of vertical edges: 2 k is the top of the k-th edge, 2 k + 1 its bottom
  const partners = []; // for each end the one that a horizontal edge joins it to
  const open = new Int32Array(width + 1).fill(-1); // the edge that goes on in a column, by its top
  let above = [];
  for (let y = 0; y <= rows.length; y++) {
    const here = rows[y] ?? [];
    let waiting = -1;
    for (const x of symmetricDifference(above, here)) {
      let end = open[x] + 1;
      if (open[x] < 0) {
        end = open[x] = xs.length;
        xs.push(x, x);
        ys.push(y, y);
      } else {
        ys[end] = y;
        open[x] = -1;
      }
      if (waiting >= 0) [partners[waiting], partners[end], waiting] = [end, waiting, -1];
      else waiting = end;
    }
    above = here;
  }
  return chained(xs, ys, partners);
}

function chained(xs, ys, partners) {
  const loops = [];
  const seen = new Uint8Array(xs.length);
  for (let first = 0; first < xs.length; first += 2) {
    const loop = [];
    for (let end = first; !seen[end]; end = partners[end ^ 1]) {
      const other = end ^ 1; // of the same edge
      seen[end] = seen[other] = 1;
      loop.push(xs[end], ys[end], xs[other], ys[other]);
    }
    if (loop.length) loops.push(loop);
  }
  return loops;
}

/** Numbers that are in one of two sorted lists only: where one row is inside and its neighbour is not, it begins and ends. */
function symmetricDifference(a, b) {
  const found = [];
  let [i, j] = [0, 0];
  while (i < a.length || j < b.length) {
    if (j === b.length || a[i] < b[j]) found.push(a[i++]);
    else if (i === a.length || b[j] < a[i]) found.push(b[j++]);
    else [i, j] = [i + 1, j + 1];
  }
  return found;
}
