// Loads an export of `i2vpp export` into onnxruntime-web.

const FORMAT = 1; // version of `i2vpp.json` that `tracker.js` reads
const GRAPHS = ["encoder", "prompt", "track"]; // the page takes no masks as prompts; "mask" is loaded if it is run
const BACKENDS = ["webgpu", "wasm"];
const ORT = "./node_modules/onnxruntime-web/dist/";

/** Something of the set-up is missing; the message says what to do. */
export class SetupError extends Error {}

/**
 * @typedef {object} Model
 * @property {any} manifest content of `i2vpp.json`
 * @property {string} backend "webgpu" or "wasm"
 * @property {import("./tracker.js").Run} run
 */

/**
 * Load the graphs of a folder.
 * @param {URL} folder ends with a slash
 * @param {string} wanted "webgpu", "wasm", or "auto": WebGPU where there is one
 * @param {(file: string, share: number) => void} progress
 * @returns {Promise<Model>}
 */
export async function loadModel(folder, wanted, progress) {
  if (wanted === "auto") return loadBest(folder, progress);
  if (!BACKENDS.includes(wanted)) throw new SetupError(`backend must be ${BACKENDS.join(" or ")}; got ${wanted}`);
  const manifest = await readManifest(folder);
  const ort = await loadRuntime(wanted);
  /** @type {Map<string, any>} */ const sessions = new Map();
  const open = async (/** @type {string} */ graph) => {
    const { file } = manifest.graphs[graph];
    const bytes = await download(new URL(file, folder), (share) => progress(file, share));
    sessions.set(graph, await ort.InferenceSession.create(bytes, { executionProviders: [wanted] }));
  };
  for (const graph of GRAPHS) await open(graph);
  return {
    manifest,
    backend: wanted,
    run: async (graph, feeds) => {
      if (!sessions.has(graph)) await open(graph);
      const tensors = Object.entries(feeds).map(([name, { data, dims }]) => [name, new ort.Tensor("float32", data, dims)]);
      const outputs = await sessions.get(graph).run(Object.fromEntries(tensors));
      return Object.fromEntries(Object.entries(outputs).map(([name, tensor]) => [name, tensor.data]));
    },
  };
}

/** @param {URL} folder */
async function readManifest(folder) {
  const export_ = "in examples/web: i2vpp export i2vpp-demo -o model --image-size 256";
  const response = await fetch(new URL("i2vpp.json", folder), { cache: "no-store" }); // exports are replaced
  const manifest = response.ok ? await response.json().catch(() => null) : null;
  if (!manifest) throw new SetupError(`There is no model at ${folder.pathname}. Export one, ${export_}`);
  if (manifest.format !== FORMAT || manifest.file_format !== "onnx") {
    throw new SetupError(`This page cannot read the export at ${folder.pathname}. Export the checkpoint again, ${export_}`);
  }
  return manifest;
}

/**
 * Load the graphs for WebGPU where there is one that takes them, else for WebAssembly.
 * @param {URL} folder
 * @param {(file: string, share: number) => void} progress
 */
async function loadBest(folder, progress) {
  if (await /** @type {any} */ (navigator).gpu?.requestAdapter().catch(() => null)) {
    try {
      return await loadModel(folder, "webgpu", progress);
    } catch (error) {
      if (error instanceof SetupError) throw error;
      console.warn("WebGPU cannot run the model, so WebAssembly does:", error);
    }
  }
  return loadModel(folder, "wasm", progress);
}

/** @param {string} backend */
async function loadRuntime(backend) {
  const file = backend === "webgpu" ? "ort.webgpu.bundle.min.mjs" : "ort.wasm.bundle.min.mjs";
  try {
    return await import(`${ORT}${file}`);
  } catch {
    throw new SetupError("onnxruntime-web is missing. Run in examples/web: npm install");
  }
}

/**
 * Download a file piece by piece.
 * @param {URL} url
 * @param {(share: number) => void} progress
 */
async function download(url, progress) {
  const response = await fetch(url, { cache: "no-cache" });
  if (!response.ok || !response.body) throw new SetupError(`${url.pathname} is missing. Export the checkpoint again`);
  const total = Number(response.headers.get("Content-Length"));
  const parts = [];
  let loaded = 0;
  for (const reader = response.body.getReader(); ; ) {
    const { done, value } = await reader.read();
    if (done) break;
    parts.push(value);
    loaded += value.length;
    progress(Math.min(1, loaded / (total || Infinity)));
  }
  return new Uint8Array(await new Blob(parts).arrayBuffer());
}
