// Requests to the server, and its events. Every failure becomes one ApiError with words for a person.

export class ApiError extends Error {
  /** status: HTTP status, 0 where no answer came; state: the VideoState that came with a 409. */
  constructor(message, status, state = null) {
    super(message);
    this.status = status;
    this.state = state;
  }
}

export const videoPath = (id, rest = "") => `/api/videos/${encodeURIComponent(id)}${rest}`;

async function refusal(response) {
  const said = await response.json().catch(() => ({}));
  const words = typeof said.error === "string" ? said.error : `the server answered ${response.status} ${response.statusText}`;
  return new ApiError(words, response.status, said.state ?? null);
}

/** Fetch and return the response; throw ApiError for anything but success, AbortError where it was aborted. */
export async function request(path, options = {}) {
  let response;
  try {
    response = await fetch(path, { credentials: "same-origin", ...options });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError("The server does not answer.", 0);
  }
  if (!response.ok) throw await refusal(response);
  return response;
}

/** Send JSON (or nothing) and return the JSON that comes back. */
export async function call(method, path, body = undefined) {
  const options = { method };
  if (method !== "GET") options.headers = { "Content-Type": "application/json" }; // the server takes nothing else
  if (body !== undefined) options.body = JSON.stringify(body);
  const response = await request(path, options);
  return response.json();
}

const FIRST_WAIT = 500;
const LONGEST_WAIT = 4000;

/** Listen to the server for as long as the page lives. `opened(again)` is called at each connection, `lost()` when one breaks. */
export function listen({ received, opened, lost }) {
  let wait = FIRST_WAIT;
  let again = false;
  const connect = () => {
    const source = new EventSource("/api/events");
    source.onopen = () => {
      wait = FIRST_WAIT;
      opened(again);
      again = true;
    };
    source.onmessage = (message) => received(JSON.parse(message.data));
    source.onerror = () => {
      source.close(); // the browser's own reconnecting gives up after an HTTP error; ours does not
      lost();
      setTimeout(connect, wait);
      wait = Math.min(wait * 2, LONGEST_WAIT);
    };
  };
  connect();
}
