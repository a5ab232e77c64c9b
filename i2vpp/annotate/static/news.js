// What the server says comes on two ways, answers and events, and may be overtaken on either. So it says everything with
// the revision of the part that it is about, and what is older than what has come before is left out.

const parts = new Map(); // part -> {revision, value}

/**
 * Return the newest value that has come of a part, such as `job <video id>`: this one, unless a newer one came before it.
 * Parts that are not shown yet are noted, too: an event may come before the answer that shows its video.
 */
export function newest(part, revision, value) {
  const known = parts.get(part);
  if (known && known.revision > revision) return known.value;
  parts.set(part, { revision, value });
  return value;
}

/** The server may be another one, that counts anew: whatever comes next is new. */
export const forgetNews = () => parts.clear();
